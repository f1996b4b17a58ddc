"""nmf2d: the whole matrix factorisation of SegNeXt's Hamburger decoder, as one op."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks, native
from segnext_kernels.backend import Kernel
from segnext_kernels.memory_format import accumulator_dtype, empty_matrices_like
from segnext_kernels.ops.nmf2d import reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton import launch

NAME = "nmf2d"
GRADS = ("unrolled", "one_step")
EPS = 1e-6
TRITON_WIDEST = 64


def _fake(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    b, d, n = x.shape
    r = bases.shape[2]
    states = 0 if not save else steps + 1 if grad == "unrolled" else 1
    state = x.new_empty((states, b, d, r), dtype=accumulator_dtype(x.dtype))
    return empty_matrices_like(x), state, state.new_empty((states, b, n, r))


def _fake_backward(grad_out: torch.Tensor, x: torch.Tensor, *_: Any) -> torch.Tensor:
    return empty_matrices_like(x)


def flops(x: Any, bases: Any, steps: int, *_: Any, **__: Any) -> int:
    """Of the forward, from shapes."""
    b, d, n = x
    r = bases[2]
    coef_update = d * n * r + d * r * r + n * r * r
    bases_update = d * n * r + n * r * r + d * r * r
    return 2 * b * (d * n * r + steps * (coef_update + bases_update) + coef_update + d * n * r)


def _flops_backward(grad_out: Any, x: Any, saved_bases: Any, *_: Any, **__: Any) -> int:
    states, _, _, r = saved_bases
    return 2 * flops(x, (1, x[1], r), max(states - 1, 0))


def _cpu_refuses(x: torch.Tensor, *_: Any) -> str | None:
    return native.cpu_refuses(x, native.CPU_DTYPES)


def _cpu_backward_refuses(grad_out: torch.Tensor, x: torch.Tensor, *_: Any) -> str | None:
    return _cpu_refuses(x)


def triton_refuses(rank: int) -> str | None:
    """Why the Triton kernels do not take this rank."""
    # matrices of the rank squared are held in registers
    return f"takes ranks up to {TRITON_WIDEST}, not {rank}" if rank > TRITON_WIDEST else None


def run(
    x: torch.Tensor,
    bases: torch.Tensor,
    steps: int,
    eps: float,
    out: torch.Tensor,
    saved_bases: torch.Tensor | None = None,
    saved_coef: torch.Tensor | None = None,
    projection: torch.Tensor | None = None,
) -> None:
    """The CPU kernel into ``out`` (B, D, N), any strides; the states before each update where they are wanted.

    With a ``projection`` (P, D), float32, ``out`` is projection · bases coefᵀ (B, P, N): a matrix product over the
    pixels for the price of one over the rank.
    """
    native._C.nmf2d_cpu(
        native.DTYPES[x.dtype],
        native.DTYPES[bases.dtype],
        *(native.view(t) for t in (x, bases, projection, out, saved_bases, saved_coef)),
        steps,
        eps,
        native.instruction_set(),
        torch.get_num_threads(),
    )


def _cpu(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    out, saved_bases, saved_coef = _fake(x, bases, steps, grad, eps, save)
    run(x, bases, steps, eps, out, *((saved_bases, saved_coef) if save else ()))
    return out, saved_bases, saved_coef


def _cpu_backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    saved_bases: torch.Tensor,
    saved_coef: torch.Tensor,
    grad: str,
    eps: float,
) -> torch.Tensor:
    grad_x = empty_matrices_like(x)
    native._C.nmf2d_backward_cpu(
        native.DTYPES[x.dtype],
        *(native.view(t) for t in (grad_out, x, saved_bases, saved_coef, grad_x)),
        grad == "unrolled",
        eps,
        native.instruction_set(),
        torch.get_num_threads(),
    )
    return grad_x


def _cuda_refuses(x: torch.Tensor, bases: torch.Tensor, *_: Any) -> str | None:
    return cuda_refuses_sizes(x, x.shape[1], bases.shape[2])


def _cuda_backward_refuses(
    grad_out: torch.Tensor, x: torch.Tensor, saved_bases: torch.Tensor, *_: Any
) -> str | None:
    return cuda_refuses_sizes(x, x.shape[1], saved_bases.shape[3])


def cuda_refuses_sizes(x: torch.Tensor, channels: int, rank: int) -> str | None:
    """Why the CUDA kernels do not take x with rows of so many channels and a rank."""
    reason = native.cuda_refuses(x, native.CUDA_DTYPES)
    if reason is not None or native._C.nmf2d_cuda_fits(native.DTYPES[x.dtype], channels, rank):
        return reason
    return f"a tile of {channels} channels and rank {rank} is too large for a block's shared memory"


def cuda_variant(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool, variant: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The CUDA kernel in one of its variants: 0 streaming, 1 grid, 2 cluster, -1 the one that suits the sizes."""
    outputs = _fake(x, bases, steps, grad, eps, save)
    run_cuda(NAME, x, bases, None, outputs, steps, eps, variant)
    return outputs


def run_cuda(
    op: str,
    x: torch.Tensor,
    bases: torch.Tensor,
    projection: torch.Tensor | None,
    outputs: tuple[torch.Tensor | None, ...],
    steps: int,
    eps: float,
    variant: int,
) -> None:
    """The CUDA kernel into ``outputs``: the result and the states. See `run`; here a projection may be x's dtype."""
    status = native._C.nmf2d_cuda(
        *(native.DTYPES[(x if t is None else t).dtype] for t in (x, bases, projection)),
        *(native.view(t) for t in (x, bases, projection, *outputs)),
        steps,
        eps,
        variant,
        *native.stream(x),
        native.Workspace(x),
    )
    native.check_launch(status, op)


def _cuda(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return cuda_variant(x, bases, steps, grad, eps, save, -1)


def _cuda_backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    saved_bases: torch.Tensor,
    saved_coef: torch.Tensor,
    grad: str,
    eps: float,
) -> torch.Tensor:
    grad_x = empty_matrices_like(x)
    status = native._C.nmf2d_backward_cuda(
        native.DTYPES[x.dtype],
        *(native.view(t) for t in (grad_out, x, saved_bases, saved_coef, grad_x)),
        grad == "unrolled",
        eps,
        *native.stream(x),
        native.Workspace(x),
    )
    native.check_launch(status, f"{NAME}_backward")
    return grad_x


forward_op = define_op(
    NAME,
    "(Tensor x, Tensor bases, int steps, str grad, float eps, bool save) -> (Tensor, Tensor, Tensor)",
    reference=reference.nmf2d,
    fake=_fake,
    kernels={
        "cuda": Kernel(_cuda, _cuda_refuses),
        "triton": launch.kernel(
            __package__, "forward", refuses_more=lambda x, bases, *_: triton_refuses(bases.shape[2])
        ),
        "cpu": Kernel(_cpu, _cpu_refuses),
    },
    flops=flops,
)
_backward_op = define_op(
    f"{NAME}_backward",
    "(Tensor grad_out, Tensor x, Tensor saved_bases, Tensor saved_coef, str grad, float eps) -> Tensor",
    reference=reference.nmf2d_backward,
    fake=_fake_backward,
    kernels={
        "cuda": Kernel(_cuda_backward, _cuda_backward_refuses),
        "triton": launch.kernel(
            __package__,
            "backward",
            position=1,
            refuses_more=lambda grad_out, x, saved_bases, *_: triton_refuses(saved_bases.shape[3]),
        ),
        "cpu": Kernel(_cpu_backward, _cpu_backward_refuses),
    },
    flops=_flops_backward,
)


def _save(inputs: tuple[Any, ...], output: Any) -> tuple[tuple[Any, ...], Any]:
    x, grad, eps = inputs[0], inputs[3], inputs[4]
    return (x, output[1], output[2]), (grad, eps)


def _backward(
    saved: tuple[Any, ...], other: tuple[str, float], grad_out: torch.Tensor, *_: Any
) -> tuple[Any, ...]:
    x, saved_bases, saved_coef = saved
    if saved_bases.shape[0] == 0:
        raise RuntimeError(
            f"{NAME}: the backward needs the state of the loop, got none; call segnext_kernels.{NAME}, which keeps it "
            "where x requires a gradient"
        )
    grad_x = _backward_op(grad_out, x, saved_bases, saved_coef, *other)
    return grad_x, None, None, None, None, None


define_autograd(NAME, save=_save, backward=_backward)
forbid_double_backward(NAME)
# Bases and state stay fp32: in fp16 coefᵀ coef passes 65504, in bf16 the result is 1 % off.
define_autocast(NAME, lambda low, x, *rest: (low(x), *rest))
define_vmap(NAME)


def check(op: str, x: torch.Tensor, bases: torch.Tensor, steps: int) -> None:
    """Refuse, in the name of ``op``, what the factorisation does not take."""
    checks.expect_floating(op, "x", x, 3, "(B, D, N)")
    checks.expect_floating(op, "bases", bases, 3, "(1 or B, D, R)")
    b, d, _ = x.shape
    batch = 1 if bases.shape[0] == 1 else b
    checks.expect_shape(op, "bases", bases, (batch, d, "R"), f"x is {tuple(x.shape)}")
    checks.expect_device(op, "bases", bases, "x", x)
    check_dtype(op, "bases", bases, x)
    if steps < 0:
        raise ValueError(f"{op}: steps must be at least 0, got {steps}")


def check_dtype(op: str, name: str, matrix: torch.Tensor, x: torch.Tensor) -> None:
    """Refuse, in the name of ``op``, a matrix neither as precise as the state nor of x's dtype."""
    if matrix.dtype not in (x.dtype, accumulator_dtype(x.dtype)):
        raise TypeError(
            f"{op}: {name} must be float32 or {x.dtype} as x, got {matrix.dtype}; convert it with .to()"
        )


def nmf2d(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str = "unrolled", eps: float = EPS
) -> torch.Tensor:
    """Non-negative matrix factorisation of X by multiplicative updates: returns its low-rank reconstruction.

    coef = softmax(Xᵀ bases); ``steps`` times coef *= Xᵀ bases / (coef basesᵀ bases + eps) and
    bases *= X coef / (bases coefᵀ coef + eps); one last coef update; returns bases coefᵀ.

    Args:
        x: (B, D, N), not negative; float16, bfloat16, float32, float64.
        bases: (1, D, R) or (B, D, R), float32 (or x's dtype), columns of unit length; gets no gradient.
        steps: number of double updates (SegNeXt: 6 in training, 7 in evaluation), >= 0.
        grad: "unrolled" differentiates the whole loop, "one_step" the last coef update alone.
        eps: added to both denominators.

    Returns:
        (B, D, N) in x's dtype, dense, with x's innermost axis (D where x is a channels_last image's pixels);
        state and accumulators are float32 (float64 for float64).

    Raises:
        ValueError: shapes or choices disagree. TypeError: dtypes. NotImplementedError: no backend takes these inputs.

    Source: Hamburger (arXiv 2109.04553), as used by SegNeXt (arXiv 2209.08575), section 3.2.
    """
    check(NAME, x, bases, steps)
    checks.expect_choice(NAME, "grad", grad, GRADS)
    save = torch.is_grad_enabled() and x.requires_grad
    return forward_op(x, bases.detach(), steps, grad, eps, save)[0]
