"""nmf2d_projected in Triton: nmf2d's kernels, then PyTorch's matrix product."""

from __future__ import annotations

import torch

from segnext_kernels.ops.nmf2d import triton_kernels as nmf
from segnext_kernels.ops.nmf2d_projected.reference import project


def forward(
    x: torch.Tensor, bases: torch.Tensor, steps: int, projection: torch.Tensor, eps: float
) -> torch.Tensor:
    """See `ops.nmf2d_projected.op`."""
    return project(projection, nmf.forward(x, bases, steps, "unrolled", eps, False)[0])
