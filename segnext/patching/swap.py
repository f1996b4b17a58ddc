"""Puts a plan into a module, and takes it out again.

The module gets a subclass of its own class, whose one method asks the plan. So everything else stays: parameters,
buffers, children, hooks, names, ``isinstance``. A copy and a pickle keep the plan; loading a pickle needs segnext.
"""

from __future__ import annotations

import functools
from typing import Any, cast

from torch import nn

from segnext.patching.plan import Plan

ATTRIBUTE = "_segnext_plan"
# Modules of one class stay of one class, so that compilers see what they saw before.
_CLASSES: dict[tuple[type[nn.Module], str], type[nn.Module]] = {}


class Patched:
    """What the classes of patched modules have beside the module's own class."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the module's own class, since a class that was made at run time has no name to be found by."""
        parts: Any = super().__reduce_ex__(protocol)
        made, arguments, *rest = parts
        base = original_class(cast(nn.Module, self))
        return _made, (base, cast(Any, self).__dict__[ATTRIBUTE].method, made, arguments[1:]), *rest


def _made(base: type[nn.Module], method: str, make: Any, arguments: tuple[Any, ...]) -> nn.Module:
    return make(patched_class(base, method), *arguments)


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
    module.__dict__[ATTRIBUTE] = plan
    module.__class__ = patched_class(type(module), plan.method)


def take_out(module: nn.Module) -> None:
    """Give a patched module its own class back."""
    base = original_class(module)
    del module.__dict__[ATTRIBUTE]
    module.__class__ = base


def is_patched(module: nn.Module) -> bool:
    """Whether the module has a plan."""
    return isinstance(module, Patched)


def plan_of(module: nn.Module) -> Plan:
    """The plan of a patched module."""
    return cast(Plan, module.__dict__[ATTRIBUTE])


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that a patched module had."""
    kinds = type(module).__mro__
    return cast("type[nn.Module]", kinds[kinds.index(Patched) + 1])
