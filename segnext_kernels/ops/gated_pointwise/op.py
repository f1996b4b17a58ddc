"""gated_pointwise: a 1x1 convolution multiplied into a second tensor, SegNeXt's attention product."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.gated_pointwise import compiled, reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton.launch import kernel_of

NAME = "gated_pointwise"
ARGUMENTS = "Tensor m, Tensor u, Tensor weight, Tensor? bias"


def gated_pointwise(
    m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """1x1 convolution and gate: ``(W m + b) * u``, the tail of SegNeXt's attention.

    Same as ``F.conv2d(m, weight, bias) * u``.

    Args:
        m: (N, Ci, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        u: (N, Co, H, W), same dtype.
        weight: (Co, Ci, 1, 1).
        bias: (Co,) or None.

    Returns:
        (N, Co, H, W) in u's dtype and memory format; accumulated in float32 (float64 for float64).

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs.

    Source: SegNeXt (arXiv 2209.08575), eq. 2.
    """
    checks.expect_floating(NAME, "m", m, 4, "(N, Ci, H, W)")
    checks.expect_floating(NAME, "u", u, 4, "(N, Co, H, W)")
    n, ci, h, w = m.shape
    co = u.shape[1]
    checks.expect_shape(NAME, "u", u, (n, "Co", h, w), f"m is {tuple(m.shape)}: batch and pixels must agree")
    checks.expect_shape(
        NAME, "weight", weight, (co, ci, 1, 1), f"m is {tuple(m.shape)}, u is {tuple(u.shape)}"
    )
    checks.expect_shape(NAME, "bias", bias, (co,), optional=True)
    for name, tensor in (("u", u), ("weight", weight), ("bias", bias)):
        checks.expect_like(NAME, name, tensor, "m", m)
    return _op(m, u, weight, bias)


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.gated_pointwise,
    fake=lambda m, u, *_: empty_like(u),
    kernels={**compiled.FORWARD, "triton": kernel_of(__package__, "forward")},
    flops=lambda m, u, weight, *_, **__: convolution_flops(m, weight),
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor[]",
    reference=reference.gated_pointwise_backward,
    fake=reference.empty_gradients,
    kernels={**compiled.BACKWARD, "triton": kernel_of(__package__, "backward", position=1)},
    flops=lambda grad, m, u, weight, *_, **__: 2 * convolution_flops(m, weight),
)


def _backward(saved: tuple[Any, ...], _: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    m, u, weight, bias = saved
    grads = _backward_op(as_format_of(grad, u), m, u, weight, bias)
    return (*grads[:3], None if bias is None else grads[3])


define_autograd(NAME, save=lambda inputs, output: (inputs, None), backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME)
define_vmap(NAME)
