"""resize_sum: how its CPU kernel is called."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from segnext_kernels import memory_format, native
from segnext_kernels.kernel import Limit


def run(base: torch.Tensor, others: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    """Into ``out``, which may be ``base``."""
    native.call_cpu("resize_sum", base, base.dtype, base, list(others), out)
    return out


def _forward(base: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
    return run(base, others, memory_format.empty_like(base))


def _not_channels_last(base: torch.Tensor, others: list[torch.Tensor]) -> str | None:
    if all(map(memory_format.has_inner_channels, (base, *others))):
        return None
    return "takes channels_last tensors; use reference, or .contiguous(memory_format=torch.channels_last)"


def most_others(most: int) -> Limit:
    """A kernel's limit of resized tensors."""
    return Limit(lambda base, others: len(others), most, "takes up to {most} others, not {size}")


CPU = native.cpu(
    _forward,
    native.INFERENCE_DTYPES,
    limits=(most_others(4),),  # csrc/ops/resize_sum/resize_sum.h
    refuses=_not_channels_last,
)
