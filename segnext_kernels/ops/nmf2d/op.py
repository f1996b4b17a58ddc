"""nmf2d: the whole matrix factorisation of SegNeXt's Hamburger decoder, as one op."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.kernel import Limit
from segnext_kernels.memory_format import empty_matrices_like
from segnext_kernels.ops.nmf2d import compiled, reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton.launch import kernel_of

NAME = "nmf2d"
GRADS = ("unrolled", "one_step")
EPS = 1e-6


def nmf2d(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str = "unrolled", eps: float = EPS
) -> torch.Tensor:
    """Non-negative matrix factorisation of X by multiplicative updates: returns its low-rank reconstruction.

    Same as ``bases @ coef.mT`` after ``steps`` updates of both.

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
    steps, eps = check(NAME, x, bases, steps, eps)
    checks.expect_choice(NAME, "grad", grad, GRADS)
    # a tensor inside torch.func.vmap does not tell whether the transforms around it take a gradient
    wanted = x.requires_grad or torch._C._are_functorch_transforms_active()
    # a trace serves calls with and without a gradient
    save = torch.jit.is_tracing() or (torch.is_grad_enabled() and wanted)
    return forward_op(x, bases.detach(), steps, grad, eps, save)[0]


def check(op: str, x: torch.Tensor, bases: torch.Tensor, steps: int, eps: float) -> tuple[int, float]:
    """Refuse, in the name of ``op``, what the factorisation does not take; return steps and eps as plain numbers."""
    checks.expect_floating(op, "x", x, 3, "(B, D, N)")
    checks.expect_floating(op, "bases", bases, 3, "(1 or B, D, R)")
    b, d, _ = x.shape
    batch = 1 if bases.shape[0] == 1 else b
    checks.expect_shape(op, "bases", bases, (batch, d, "R"), f"x is {tuple(x.shape)}")
    checks.expect_precise(op, "bases", bases, "x", x)
    steps = checks.expect_integer(op, "steps", steps, 0, "at least 0")
    return steps, checks.expect_number(op, "eps", eps)


TRITON_RANK = Limit(  # matrices of the rank squared are held in registers; saved bases have the rank last too
    lambda x, bases, *_: bases.shape[-1], 64, "takes ranks up to {most}, not {size}"
)


def flops(x: Any, bases: Any, steps: int, *_: Any, **__: Any) -> int:
    """Floating-point operations of the forward, from shapes."""
    b, d, n = x
    r = bases[2]
    coef_update = d * n * r + d * r * r + n * r * r
    bases_update = d * n * r + n * r * r + d * r * r
    return 2 * b * (d * n * r + steps * (coef_update + bases_update) + coef_update + d * n * r)


def _flops_backward(grad_out: Any, x: Any, saved_bases: Any, *_: Any, **__: Any) -> int:
    states, _, _, r = saved_bases
    return 2 * flops(x, (1, x[1], r), max(states - 1, 0))


forward_op = define_op(
    NAME,
    "(Tensor x, Tensor bases, int steps, str grad, float eps, bool save) -> (Tensor, Tensor, Tensor)",
    reference=reference.nmf2d,
    fake=reference.empty_out,
    kernels={**compiled.FORWARD, "triton": kernel_of(__package__, "forward", limits=(TRITON_RANK,))},
    flops=flops,
)
_backward_op = define_op(
    f"{NAME}_backward",
    "(Tensor grad_out, Tensor x, Tensor saved_bases, Tensor saved_coef, str grad, float eps) -> Tensor",
    reference=reference.nmf2d_backward,
    fake=lambda grad_out, x, *_: empty_matrices_like(x),
    kernels={
        **compiled.BACKWARD,
        "triton": kernel_of(__package__, "backward", position=1, limits=(TRITON_RANK,)),
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
# Bases and state stay float32: in float16 coefᵀ coef passes 65504, in bfloat16 the result is 1 % off.
define_autocast(NAME, "x")
define_vmap(NAME)
