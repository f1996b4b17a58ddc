"""conv_ffn in Triton, in three steps:

    hidden = W1 x + b1                    `triton.pointwise`, written as (N, H, W, E)
    mixed  = GELU(dw3x3(hidden) + b)      dwconv_gelu by the backend of the call
    out    = W2 mixed + b2 (+ x)          `triton.pointwise`

The backward is PyTorch's products around the kernels of dwconv_gelu: see `ops.conv_ffn.op`.

Model for an H200, P pixels, C in and out, E hidden, e bytes: 4 P C E + (18 + ~25) P E FLOP, e (2 P C + 4 P E) bytes:
each of the two hidden tensors is written and read once, by L2 where the map fits. float32 is multiplied as float32.

Measured on an H200 (bench/results/h200) in bfloat16 around CUDA's dwconv_gelu, microseconds: 64 channels at 96x192 39,
160 at 48x96 21, 256 at 24x48 18; CUDA's fused kernel 63, 60 and 29.

A second kernel that made dw3x3 and GELU in registers, as the operand of the last product, was tried and removed. For
each tile it loads the nine shifted tiles again, converts them and multiplies them by taps that no register can keep.
Measured on an H200 in bfloat16, the op took 39.4 us with it at (1, 32, 128, 128) and E 256, 45.8 us at (1, 64, 64, 64)
and E 512, where dwconv_gelu takes 14.7 and 8.3 us in Triton, 7.9 and 5.4 us in CUDA. In float32 the issue model gives
it 94 and 127 us, and the three steps 91 and 85.
"""

from __future__ import annotations

import torch

from segnext_kernels import memory_format
from segnext_kernels.triton.pointwise import pointwise


def forward(
    x: torch.Tensor,
    fc1_weight: torch.Tensor,
    fc1_bias: torch.Tensor,
    dw_weight: torch.Tensor,
    dw_bias: torch.Tensor,
    fc2_weight: torch.Tensor,
    fc2_bias: torch.Tensor,
    residual: bool,
) -> torch.Tensor:
    """See `ops.conv_ffn.op`."""
    n, _, h, w = x.shape
    e, co = fc1_weight.shape[0], fc2_weight.shape[0]
    out = memory_format.empty_like(x, channels=co)
    if out.numel() == 0:
        return out
    hidden = x.new_empty((n, h, w, e)).permute(0, 3, 1, 2)
    wide = pointwise(x, fc1_weight[:, :, 0, 0], fc1_bias, hidden)
    mixed = torch.ops.segnext_kernels.dwconv_gelu(wide, dw_weight, dw_bias)
    return pointwise(mixed, fc2_weight[:, :, 0, 0], fc2_bias, out, skip=x if residual else None)
