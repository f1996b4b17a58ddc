"""nmf2d_projected in Triton: nmf2d's kernels, in 16 bits with projected bases, in float32 and PyTorch's product."""

from __future__ import annotations

import torch

from segnext_kernels.backend import use_backend
from segnext_kernels.ops.nmf2d import triton_split
from segnext_kernels.ops.nmf2d.op import forward_op
from segnext_kernels.ops.nmf2d_projected.reference import project


def forward(
    x: torch.Tensor, bases: torch.Tensor, steps: int, projection: torch.Tensor, eps: float
) -> torch.Tensor:
    """See `ops.nmf2d_projected.op`."""
    if x.dtype != torch.float32 and all(t.numel() for t in (x, bases, projection)):
        return triton_split.forward(x, bases, steps, eps, projection=projection)[0]
    with use_backend("triton"):
        return project(projection, forward_op(x, bases, steps, "unrolled", eps, False)[0])
