"""group_norm_act: GroupNorm, an optional residual and ReLU in one pass over the pixels."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.group_norm_act import compiled, reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton.launch import kernel_of

NAME = "group_norm_act"
ACTS = ("relu", "none")


def group_norm_act(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    act: str = "relu",
) -> torch.Tensor:
    """GroupNorm, an optional residual, and ReLU: ``act(GN(x) + residual)``.

    Same as ``F.relu(F.group_norm(x, groups, weight, bias, eps) + residual)``.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        groups: number of groups, a divisor of C.
        weight: (C,), float32 or x's dtype.
        bias: (C,), weight's dtype.
        eps: added to the variance.
        residual: (N, C, H, W) in x's dtype, added before the activation; or None.
        act: "relu" or "none".

    Returns:
        (N, C, H, W) in x's dtype and memory format; statistics in float32 (float64 for float64).

    Raises:
        ValueError: shapes or choices disagree. TypeError: dtypes. NotImplementedError: no backend takes these inputs.

    Source: Group Normalization (arXiv 1803.08494); its place in SegNeXt's decoder: arXiv 2209.08575, section 3.2.
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    c = x.shape[1]
    divisor = f"a divisor of the {c} channels of x"
    groups = checks.expect_integer(NAME, "groups", groups, 1, divisor)
    if c % groups:
        raise ValueError(f"{NAME}: groups must be {divisor}, got {groups}")
    checks.expect_affine(NAME, weight, bias, x)
    checks.expect_shape(NAME, "residual", residual, x.shape, "a residual has x's shape", optional=True)
    checks.expect_choice(NAME, "act", act, ACTS)
    checks.expect_like(NAME, "residual", residual, "x", x)
    return _op(x, groups, weight, bias, checks.expect_number(NAME, "eps", eps), residual, act)


_op = define_op(
    NAME,
    "(Tensor x, int groups, Tensor weight, Tensor bias, float eps, Tensor? residual, str act) -> Tensor",
    reference=reference.group_norm_act,
    fake=lambda x, *_: empty_like(x),
    kernels={**compiled.FORWARD, "triton": kernel_of(__package__, "forward")},
    flops=lambda *args, **_: 0,  # element-wise work: not counted by convention
)
_backward_op = define_op(
    f"{NAME}_backward",
    "(Tensor grad, Tensor x, Tensor out, int groups, Tensor weight, float eps, str act, bool residual) -> Tensor[]",
    reference=reference.group_norm_act_backward,
    fake=reference.empty_gradients,
    kernels={**compiled.BACKWARD, "triton": kernel_of(__package__, "backward", position=1)},
    flops=lambda *args, **_: 0,
)


def _save(inputs: tuple[Any, ...], output: Any) -> tuple[tuple[Any, ...], Any]:
    x, groups, weight, _, eps, residual, act = inputs
    return (x, output, weight), (groups, eps, act, residual is not None)


def _backward(saved: tuple[Any, ...], other: tuple[Any, ...], grad: torch.Tensor) -> tuple[Any, ...]:
    x, out, weight = saved
    groups, eps, act, residual = other
    grads = _backward_op(as_format_of(grad, x), x, out, groups, weight, eps, act, residual)
    return grads[0], None, grads[1], grads[2], None, grads[3] if residual else None, None


define_autograd(NAME, save=_save, backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME, "x", "residual")  # statistics and affine parameters stay as they are
define_vmap(NAME)
