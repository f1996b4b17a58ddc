"""msca_block in plain PyTorch: the definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnext_kernels.memory_format import as_format_of
from segnext_kernels.ops.convolutions import pointwise
from segnext_kernels.ops.msca_conv.reference import msca_conv


def msca_block(
    x: torch.Tensor,
    proj_in_weight: torch.Tensor,
    proj_in_bias: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: list[torch.Tensor],
    column_weights: list[torch.Tensor],
    row_biases: list[torch.Tensor],
    column_biases: list[torch.Tensor],
    mix_weight: torch.Tensor,
    mix_bias: torch.Tensor,
    proj_out_weight: torch.Tensor,
    proj_out_bias: torch.Tensor,
    skip_scale: torch.Tensor,
    skip_shift: torch.Tensor,
) -> torch.Tensor:
    u = F.gelu(pointwise(x, proj_in_weight, proj_in_bias))
    m = msca_conv(u, root_weight, root_bias, row_weights, column_weights, row_biases, column_biases)
    gated = pointwise(m, mix_weight, mix_bias) * u
    skip = x * skip_scale.view(1, -1, 1, 1) + skip_shift.view(1, -1, 1, 1)
    return as_format_of(skip + pointwise(gated, proj_out_weight, proj_out_bias), x)
