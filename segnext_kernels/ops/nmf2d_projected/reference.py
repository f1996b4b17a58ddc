"""nmf2d_projected in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

import torch

from segnext_kernels.memory_format import as_order_of, empty_matrices_like
from segnext_kernels.ops.nmf2d import reference


def project(projection: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """projection (P, D) · matrices (B, D, N), in the dtype and order of ``matrices``."""
    pixels = matrices.mT @ projection.to(matrices.dtype).T  # (B, N, P): no copy if D is innermost
    return as_order_of(pixels.mT, matrices)


def nmf2d_projected(
    x: torch.Tensor, bases: torch.Tensor, steps: int, projection: torch.Tensor, eps: float
) -> torch.Tensor:
    """`nmf2d`, then a 1x1 convolution of its result."""
    return project(projection, reference.nmf2d(x, bases, steps, "unrolled", eps, False)[0])


def empty_out(
    x: torch.Tensor, bases: torch.Tensor, steps: int, projection: torch.Tensor, eps: float
) -> torch.Tensor:
    return empty_matrices_like(x, projection.shape[0])
