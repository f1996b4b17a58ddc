"""nmf2d_projected in Triton: the op nmf2d on its Triton kernels, then PyTorch's matrix product."""

from __future__ import annotations

import torch

from segnext_kernels.backend import use_backend
from segnext_kernels.ops.nmf2d.op import forward_op
from segnext_kernels.ops.nmf2d_projected.reference import project


def forward(
    x: torch.Tensor, bases: torch.Tensor, steps: int, projection: torch.Tensor, eps: float
) -> torch.Tensor:
    """See `ops.nmf2d_projected.op`."""
    with use_backend("triton"):
        return project(projection, forward_op(x, bases, steps, "unrolled", eps, False)[0])
