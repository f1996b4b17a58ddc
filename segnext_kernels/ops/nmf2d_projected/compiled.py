"""nmf2d_projected: how nmf2d's compiled kernels are called with a projection."""

from __future__ import annotations

import functools

import torch

from segnext_kernels import native
from segnext_kernels.memory_format import accumulator_dtype
from segnext_kernels.ops.nmf2d import compiled as nmf
from segnext_kernels.ops.nmf2d_projected.reference import empty_out


def _cpu(
    x: torch.Tensor, bases: torch.Tensor, steps: int, projection: torch.Tensor, eps: float
) -> torch.Tensor:
    wide = projection.to(accumulator_dtype(x.dtype)).contiguous()
    out = empty_out(x, bases, steps, projection, eps)
    return nmf.run(x, bases, steps, eps, out, projection=wide)


def _cuda(
    x: torch.Tensor,
    bases: torch.Tensor,
    steps: int,
    projection: torch.Tensor,
    eps: float,
    variant: int = nmf.SUITABLE,
) -> torch.Tensor:
    out = empty_out(x, bases, steps, projection, eps)
    nmf.run_cuda("nmf2d_projected", x, bases, projection, (out, None, None), steps, eps, variant)
    return out


def _unfit(
    x: torch.Tensor, bases: torch.Tensor, steps: int, projection: torch.Tensor, eps: float
) -> str | None:
    rows = max(x.shape[1], projection.shape[0])  # a tile's rows become the result's
    return nmf.too_large(x, rows, bases.shape[2])


KERNELS = {
    "cuda": native.cuda(
        _cuda, refuses=_unfit, slower=functools.partial(nmf.slower_than_triton, "nmf2d_projected")
    ),
    "cpu": native.cpu(_cpu),
}
