"""The Hamburger: a matrix factorisation between two 1x1 convolutions."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.layers import norm_act
from segnext.patching.convolutions import Convolutions, Step
from segnext.patching.layers import InTheWay, are_unobserved, expect_unobserved, own_tensors
from segnext.patching.plan import Plan, are_images, number_of_arguments, sample
from segnext.patching.strides import in_channels_last
from segnext_kernels import nmf2d

GRADS = ("unrolled", "one_step")  # of `segnext_kernels.nmf2d`: which one a module has, its gradients tell
READ = (
    "S",
    "R",
    "train_steps",
    "eval_steps",
)  # attributes of a factorisation, as the Hamburger paper's code has them


def is_factorisation(module: nn.Module) -> bool:
    """Whether a module has the parts of the paper's code: numbers of bases and steps, and a method that draws bases."""
    return all(isinstance(getattr(module, name, None), int) for name in READ) and callable(
        getattr(module, "_build_bases", None)
    )


@dataclass(frozen=True)
class Factorisation(Plan):
    """Non-negative matrix factorisation of (N, C, H, W), from bases that the module itself draws.

    Attributes:
        grad: "unrolled" or "one_step", see `segnext_kernels.nmf2d`.
        place: the argument of the drawing method that says where the bases are.
        spatial: the module's flag of that name.
    """

    what: ClassVar[str] = "NMF of the Hamburger"
    ops: ClassVar[tuple[str, ...]] = ("nmf2d",)
    reads: ClassVar[tuple[str, ...]] = (*READ, "rand_init", "inv_t", "spatial")
    grad: str
    place: str | None
    spatial: bool

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        if not is_factorisation(module) or number_of_arguments(module) != 1:
            return []
        if (inv_t := getattr(module, "inv_t", 1)) != 1:
            raise InTheWay(f"its coefficients begin with a softmax of inv_t={inv_t}")
        names = inspect.signature(module._build_bases).parameters  # type: ignore[arg-type]
        place = next((name for name in ("device", "cuda") if name in names), None)
        return [cls(grad, place, getattr(module, "spatial", True)) for grad in GRADS]

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        return (sample(generator, 24, positive=True),)

    def takes(self, module: Any, *args: Any) -> bool:
        # further arguments, such as return_bases, are for the module's own method
        as_checked = getattr(module, "inv_t", 1) == 1 and getattr(module, "spatial", True) == self.spatial
        return are_images(*args) and as_checked

    def run(self, module: Any, *args: Any) -> Tensor:
        (x,) = args
        n, channels = x.shape[:2]
        sizes = (module.S, channels // module.S, module.R)
        if getattr(module, "rand_init", True):
            bases = self._drawn(module, n, sizes, x)
        else:
            if not hasattr(module, "bases"):
                module.register_buffer("bases", self._drawn(module, 1, sizes, x))
            bases = module.bases if module.S == 1 else module.bases.repeat(n, 1, 1)
        rows = x.flatten(2) if module.S == 1 else x.reshape(n * module.S, sizes[1], -1)
        steps = module.train_steps if module.training else module.eval_steps
        z = nmf2d(rows, bases, steps, self.grad)
        return z.unflatten(2, x.shape[2:]) if module.S == 1 else z.reshape(x.shape)

    def _drawn(self, module: Any, n: int, sizes: tuple[int, int, int], x: Tensor) -> Tensor:
        places = {"device": x.device, "cuda": x.is_cuda}
        where = {} if self.place is None else {self.place: places[self.place]}
        bases: Tensor = module._build_bases(n, *sizes, **where)
        return bases if x.dtype != torch.float64 else bases.double()


@dataclass(frozen=True)
class Hamburger(Plan):
    """``relu(x + bread_out(ham(relu(bread_in(x)))))``.

    Attributes:
        names: of the three children.
        breads: the classes of the two that are not called.
        first, last: the 1x1 convolutions of both breads; the last one has a normalisation and no activation.
    """

    what: ClassVar[str] = "Hamburger"
    ops: ClassVar[tuple[str, ...]] = ("group_norm_act",)
    is_core: ClassVar[bool] = False
    names: tuple[str, str, str]
    breads: tuple[type[nn.Module], type[nn.Module]]
    first: Step
    last: Step

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        children = list(module.named_children())
        if len(children) != 3 or own_tensors(module) or number_of_arguments(module) != 1:
            return []
        names, (bread_in, ham, bread_out) = zip(*children, strict=True)
        if not is_factorisation(ham):
            return []
        first, last = Convolutions.steps_of(bread_in), Convolutions.steps_of(bread_out)
        if len(first) != 1 or len(last) != 1 or last[0].act is not None or last[0].norm is None:
            return []
        for bread, (step,) in ((bread_in, first), (bread_out, last)):
            if not step.conv.is_pointwise:
                return []
            step.conv.expect_plain(bread)
        expect_unobserved(module, names[0], names[2])
        return [cls(names, (type(bread_in), type(bread_out)), first[0], last[0])]

    @property
    def called(self) -> tuple[str, ...]:
        return (self.names[1],)

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        return (sample(generator, self.first.conv.in_channels),)

    def takes(self, module: Any, *args: Any) -> bool:
        bread_in, _, bread_out = (getattr(module, name) for name in self.names)
        return (
            are_images(*args)
            and are_unobserved(module, self.names[0], self.names[2])
            and (type(bread_in), type(bread_out)) == self.breads
            and self.first.is_as_found(bread_in)
            and self.last.is_as_found(bread_out)
        )

    def run(self, module: Any, *args: Any) -> Tensor:
        bread_in, ham, bread_out = (getattr(module, name) for name in self.names)
        x = in_channels_last(args[0])
        z = ham(F.relu(self.first.run(bread_in, x)))
        y = self.last.conv.mix(bread_out, z)
        return norm_act(getattr(bread_out, self.last.norm or ""), y, residual=x)
