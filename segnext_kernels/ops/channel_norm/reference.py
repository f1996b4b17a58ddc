"""channel_norm in plain PyTorch: the definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnext_kernels.memory_format import accumulator_dtype, as_format_of


def channel_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    wide = accumulator_dtype(x.dtype)
    pixels = x.permute(0, 2, 3, 1).to(wide)
    normed = F.layer_norm(pixels, pixels.shape[3:], weight.to(wide), bias.to(wide), eps)
    return as_format_of(normed.to(x.dtype).permute(0, 3, 1, 2), x)
