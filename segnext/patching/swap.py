"""Puts a plan into a module, and takes it out again.

The module gets a subclass of its own class, whose one method asks the plan. So everything else stays: parameters,
buffers, children, hooks, names, ``isinstance``. A copy and a pickle keep the plan; loading a pickle needs segnext.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, cast

from torch import nn

from segnext.one_line import one_line
from segnext.patching.plan import Plan

ATTRIBUTE = "_segnext_plan"
logger = logging.getLogger("segnext")
# Modules of one class stay of one class, so that compilers see what they saw before.
_CLASSES: dict[tuple[type[nn.Module], str], type[nn.Module]] = {}


class Patched:
    """What the classes of patched modules have beside the module's own class."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Let the module compute by itself again if one of its own numbers or flags changes: a plan does not ask them.

        Names with an underscore are what libraries note down, such as whether a module was initialised.
        """
        plan, old = self.__dict__.get(ATTRIBUTE), self.__dict__.get(name, value)
        asked = plan is None or name == "training" or name.startswith("_") or name in plan.reads
        if asked or not isinstance(old, bool | int | float | str | None) or old == value:
            super().__setattr__(name, value)
            return
        kind = type(self).__name__
        logger.warning(
            "patch: a %s computes by itself again, since its %s became %s", kind, name, one_line(value)
        )
        take_out(cast(nn.Module, self))
        setattr(self, name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the module's own class, since a class that was made at run time has no name to be found by."""
        parts: Any = super().__reduce_ex__(protocol)
        make, arguments, *rest = parts
        kind, base = type(self), original_class(cast(nn.Module, self))
        make, *arguments = (base if item is kind else item for item in (make, *arguments))
        return _made, (self.__dict__.get(ATTRIBUTE), make, *arguments), *rest


def _made(plan: Plan | None, make: Any, *arguments: Any) -> nn.Module:
    module: nn.Module = make(*arguments)
    if plan is not None:
        put(module, plan)
    return module


def patched_class(base: type[nn.Module], method: str) -> type[nn.Module]:
    """Return the subclass of ``base`` whose ``method`` asks the module's plan."""
    if (base, method) not in _CLASSES:
        _CLASSES[base, method] = _subclass(base, method)
    return _CLASSES[base, method]


def _subclass(base: type[nn.Module], method: str) -> type[nn.Module]:
    own = getattr(base, method)

    @functools.wraps(own)
    def planned(self: Any, *args: Any, **kwargs: Any) -> Any:
        plan = self.__dict__.get(ATTRIBUTE)
        if plan is None or kwargs or not plan.takes(self, *args):
            return own(self, *args, **kwargs)
        return plan.run(self, *args)

    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(base.__name__, (Patched, base), {method: planned, **names})


def put(module: nn.Module, plan: Plan) -> None:
    """Let the plan compute the module."""
    module.__class__ = patched_class(original_class(module), plan.method)
    module.__dict__[ATTRIBUTE] = plan


def take_out(module: nn.Module) -> None:
    """Give a patched module its own class back."""
    base = original_class(module)
    del module.__dict__[ATTRIBUTE]
    module.__class__ = base


def is_patched(module: nn.Module) -> bool:
    """Whether the module has a plan: a copy that its class makes in a way of its own may be without."""
    return isinstance(module, Patched) and ATTRIBUTE in module.__dict__


def plan_of(module: nn.Module) -> Plan:
    """The plan of a patched module."""
    return cast(Plan, module.__dict__[ATTRIBUTE])


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before it was patched."""
    kinds: tuple[type, ...] = type(module).__mro__
    return kinds[kinds.index(Patched) + 1] if Patched in kinds else type(module)
