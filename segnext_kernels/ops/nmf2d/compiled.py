"""nmf2d: how its compiled kernels are called. nmf2d_projected calls the same ones."""

from __future__ import annotations

import functools
from typing import Any

import torch

from segnext_kernels import native
from segnext_kernels.backend import would_take
from segnext_kernels.memory_format import empty_matrices_like
from segnext_kernels.ops.nmf2d.reference import empty_out

NARROW_RANK = 16  # up to it, every block of the CUDA kernel updates all bases for itself (nmf2d_narrow.cuh)
SUITABLE = -1  # the variant of the CUDA kernel that suits the sizes; 0 is streaming, 1 grid, 2 cluster


def run(
    x: torch.Tensor,
    bases: torch.Tensor,
    steps: int,
    eps: float,
    out: torch.Tensor,
    saved_bases: torch.Tensor | None = None,
    saved_coef: torch.Tensor | None = None,
    projection: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run the CPU kernel and write into ``out`` (B, D, N), any strides; also the states before each update, if given.

    With a ``projection`` (P, D), float32, ``out`` is projection · bases coefᵀ (B, P, N). The kernel projects the bases,
    which costs a matrix product over the rank instead of one over the pixels.
    """
    native.call_cpu(
        "nmf2d", x, x.dtype, bases.dtype, x, bases, projection, out, saved_bases, saved_coef, steps, eps
    )
    return out


def run_cuda(
    op: str,
    x: torch.Tensor,
    bases: torch.Tensor,
    projection: torch.Tensor | None,
    outputs: tuple[torch.Tensor | None, ...],
    steps: int,
    eps: float,
    variant: int = SUITABLE,
) -> None:
    """Run the CUDA kernel; write result and states into ``outputs``. See `run`; here a projection may be x's dtype."""
    native.call_cuda(
        "nmf2d", x, *((x if t is None else t).dtype for t in (x, bases, projection)), x, bases, projection,
        *outputs, steps, eps, variant, workspace=True, op=op,
    )  # fmt: skip


def _cpu(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    out, saved_bases, saved_coef = empty_out(x, bases, steps, grad, eps, save)
    run(x, bases, steps, eps, out, *((saved_bases, saved_coef) if save else ()))
    return out, saved_bases, saved_coef


def _cuda(
    x: torch.Tensor,
    bases: torch.Tensor,
    steps: int,
    grad: str,
    eps: float,
    save: bool,
    variant: int = SUITABLE,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    outputs = empty_out(x, bases, steps, grad, eps, save)
    run_cuda("nmf2d", x, bases, None, outputs, steps, eps, variant)
    return outputs


def _backward(
    call: Any,
    grad_out: torch.Tensor,
    x: torch.Tensor,
    saved_bases: torch.Tensor,
    saved_coef: torch.Tensor,
    grad: str,
    eps: float,
) -> torch.Tensor:
    grad_x = empty_matrices_like(x)
    call(
        "nmf2d_backward", x, x.dtype, grad_out, x, saved_bases, saved_coef, grad_x, grad == "unrolled", eps,
        workspace=True,
    )  # fmt: skip
    return grad_x


def too_large(x: torch.Tensor, channels: int, rank: int) -> str | None:
    """Why a tile with rows of so many channels and a rank does not fit the CUDA kernels."""
    if native._C.nmf2d_cuda_fits(native.DTYPES[x.dtype], channels, rank):
        return None
    return f"a tile of {channels} channels and rank {rank} is too large for a block's shared memory"


def _unfit(x: torch.Tensor, bases: torch.Tensor, *_: Any) -> str | None:
    return too_large(x, x.shape[1], bases.shape[-1])  # the backward's saved bases have the rank there too


def slower_than_triton(op: str, *args: Any) -> str | None:
    """Why "auto" leaves inputs of nmf2d or nmf2d_projected to Triton's kernels, which are there.

    On an H200 these kernels take 375 us at D 512, R 64, N 4096 and Triton's 236 (for 32 images 7.1 ms, where PyTorch's
    loop takes 6.5); at R 16 and N 18432 they take 106 us and Triton's 187 (bench/results/h200).
    """
    x, bases = args[:2]
    if x.dtype == torch.float32 or bases.shape[2] <= NARROW_RANK or not would_take(op, "triton", args):
        return None
    return f"slower than Triton's above rank {NARROW_RANK} in 16 bits"


FORWARD = {
    "cuda": native.cuda(_cuda, refuses=_unfit, slower=functools.partial(slower_than_triton, "nmf2d")),
    "cpu": native.cpu(_cpu),
}
BACKWARD = native.both(_backward, position=1, on_cuda={"refuses": _unfit})
