"""A plan: which layers of one module a fused forward takes, and how it computes with them."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segnext.patching.layers import Conv

SAMPLE = (
    2,
    11,
    14,
)  # images, height and width of the check: odd, not square, smaller than the longest strips


@dataclass(frozen=True)
class Plan(ABC):
    """How one module is computed with the kernels; names and geometry only, so that it can be copied and pickled.

    Attributes:
        what: the part's name in a report.
        ops: what computes it.
        method: which method of the module is replaced.
        reads: the module's attributes that `takes` and `run` ask, so that they may change.
        is_core: False for parts that are worth it only beside others.
    """

    what: ClassVar[str]
    ops: ClassVar[tuple[str, ...]]
    method: ClassVar[str] = "forward"
    reads: ClassVar[tuple[str, ...]] = ()
    is_core: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        """Return the plans that a module's structure allows; which of them is right, its numbers will tell.

        Raises:
            InTheWay: the module has the structure, and has to be left alone nevertheless.
        """

    @abstractmethod
    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        """Return arguments of the method for the check: small, in float64, on the CPU."""

    @property
    def layers(self) -> tuple[Conv, ...]:
        """The module's own layers whose parameters are taken instead of calling them."""
        return ()

    @property
    def called(self) -> tuple[str, ...]:
        """The children that the plan calls as the module does, with one tensor; the check has stand-ins for them."""
        return ()

    @property
    def norms_called(self) -> tuple[str, ...]:
        """The children that normalise what the plan gives them, with the strides that they take."""
        return ()

    @abstractmethod
    def run(self, module: Any, *args: Any) -> Any:
        """Compute what the module's own method computes."""

    def takes(self, module: Any, *args: Any) -> bool:
        """Whether these arguments, at this moment, are for :meth:`run`; else the module's own method runs."""
        return are_images(*args) and all(conv.is_as_found(module) for conv in self.layers)

    @property
    def dropping(self) -> tuple[str, ...]:
        """The children that draw at random. The check sets their rates to a half: 0 would hide where they are."""
        return ()


def are_images(*args: Any) -> bool:
    """Whether the arguments are one tensor (N, C, H, W); what `torch.fx` traces with is none."""
    return len(args) == 1 and isinstance(args[0], Tensor) and args[0].ndim == 4


def sample(generator: torch.Generator, channels: int, positive: bool = False) -> Tensor:
    """Random features (N, channels, H, W) of the sizes of `SAMPLE`, in float64."""
    draw = torch.rand if positive else torch.randn
    n, height, width = SAMPLE
    return draw((n, channels, height, width), generator=generator, dtype=torch.float64)


def number_of_arguments(module: nn.Module, method: str = "forward") -> int | None:
    """How many arguments the module's method must get; None if that cannot be told."""
    try:
        parameters = inspect.signature(getattr(type(module), method)).parameters.values()
    except (TypeError, ValueError, AttributeError):
        return None
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.default is inspect.Parameter.empty and p.kind is not p.VAR_KEYWORD for p in parameters) - 1
