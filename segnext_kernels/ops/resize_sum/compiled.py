"""resize_sum: how its CPU kernel is called."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from segnext_kernels import memory_format, native
from segnext_kernels.kernel import WITHOUT_ALIGNED_CORNERS, Limit


def run(base: torch.Tensor, others: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    """Write into ``out``, which may be ``base``."""
    native.call_cpu("resize_sum", base, base.dtype, base, list(others), out)
    return out


def _forward(base: torch.Tensor, others: list[torch.Tensor], align_corners: bool = False) -> torch.Tensor:
    return run(base, others, memory_format.empty_like(base))


def most_others(most: int) -> Limit:
    """A kernel's limit of resized tensors."""
    return Limit(lambda base, others, *_: len(others), most, "takes up to {most} others, not {size}")


def aligned(base: torch.Tensor, others: Sequence[torch.Tensor], align_corners: bool = False) -> str | None:
    """Why no fused kernel takes these arguments."""
    return WITHOUT_ALIGNED_CORNERS if align_corners else None


CPU = native.cpu(
    _forward,
    native.INFERENCE_DTYPES,
    limits=(most_others(4),),  # csrc/ops/resize_sum/resize_sum.h
    refuses=lambda base, others, *rest: (
        aligned(base, others, *rest) or native.not_channels_last(base, *others)
    ),
)
