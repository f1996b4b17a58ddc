"""resize_sum in plain PyTorch: the definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnext_kernels.memory_format import accumulator_dtype, as_format_of


def resize_sum(base: torch.Tensor, others: list[torch.Tensor], align_corners: bool = False) -> torch.Tensor:
    wide, total = accumulator_dtype(base.dtype), base
    for other in others:
        resized = F.interpolate(
            other.to(wide), size=base.shape[2:], mode="bilinear", align_corners=align_corners
        )
        total = total.to(wide) + resized
    return as_format_of(total.to(base.dtype), base).clone(memory_format=torch.preserve_format)
