"""A kernel as data: its dtypes, its limits and what it refuses; `choose`, `explain` and the support matrix read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

# Gets an op's arguments and says in a few words why the kernel does not take them; None where it takes them.
Reason = Callable[..., "str | None"]


@dataclass(frozen=True)
class Limit:
    """The largest size that a kernel has room for.

    Attributes:
        size: gets the kernel's arguments from its ``position`` on.
        most: the limit, or a function that asks the compiled library for it.
        text: the refusal, with both numbers: "takes up to {most} channels, not {size}".
    """

    size: Callable[..., int]
    most: int | Callable[[], int]
    text: str

    def reason_against(self, *args: Any) -> str | None:
        """The refusal where the size of these arguments is above the limit."""
        size, most = self.size(*args), self.most if isinstance(self.most, int) else self.most()
        return self.text.format(most=most, size=size) if size > most else None


@dataclass(frozen=True)
class Kernel:
    """One backend's implementation of one op.

    Attributes:
        run: takes the op's arguments in schema order.
        dtypes: of the deciding tensor; None for all.
        device: the type of device that "auto" takes it on; None for all.
        position: of the tensor whose device and dtype decide; 1 in a backward, behind the incoming gradient.
        machine: ``machine(tensor, dtypes)`` says why this machine does not run the kernel on the deciding tensor.
        limits: the largest sizes.
        refuses: what is neither a dtype nor a limit.
        slower: why "auto" leaves inputs that the kernel takes to another backend, which was measured to be faster.

    ``limits``, ``refuses`` and ``slower`` get the arguments from ``position`` on: a backward shares its forward's.
    """

    run: Callable[..., Any]
    dtypes: tuple[torch.dtype, ...] | None = None
    position: int = 0
    device: str | None = None
    machine: Callable[[torch.Tensor, tuple[torch.dtype, ...]], str | None] | None = None
    limits: tuple[Limit, ...] = ()
    refuses: Reason | None = None
    slower: Reason | None = None

    def reason_against(self, *args: Any) -> str | None:
        """Why these arguments, in schema order, cannot be taken; None where they can."""
        args = args[self.position :]
        if self.machine is not None and (reason := self.machine(args[0], self.dtypes or ())) is not None:
            return reason
        for limit in self.limits:
            if (reason := limit.reason_against(*args)) is not None:
                return reason
        return None if self.refuses is None else self.refuses(*args)

    def reason_to_pass(self, *args: Any) -> str | None:
        """Why "auto" leaves these arguments, which can be taken, to the next backend; None where it does not."""
        return None if self.slower is None else self.slower(*args[self.position :])


# Why the fused kernels, whose tiles follow from pixel centres, leave ``align_corners=True`` to the definition.
WITHOUT_ALIGNED_CORNERS = "takes align_corners=False"

# op name -> backend name -> kernel; registration.define_op fills it
KERNELS: dict[str, dict[str, Kernel]] = {}
# op name -> the arguments that autocast converts to the low precision; registration.define_autocast fills it
AUTOCAST: dict[str, tuple[str, ...]] = {}


def dtype_name(dtype: torch.dtype) -> str:
    """In words: "float16"."""
    return str(dtype).removeprefix("torch.")


def dtype_names(dtypes: tuple[torch.dtype, ...]) -> str:
    """In words: "float16, bfloat16 and float32"."""
    *first, last = map(dtype_name, dtypes)
    return f"{', '.join(first)} and {last}" if first else last
