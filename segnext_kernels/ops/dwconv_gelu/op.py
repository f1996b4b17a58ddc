"""dwconv_gelu: a depthwise 3x3 convolution with GELU, the middle of SegNeXt's feed-forward network."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.dwconv_gelu import compiled, reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton.launch import kernel_of

NAME = "dwconv_gelu"
ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias"


def dwconv_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Depthwise 3x3 convolution (zero padding 1, stride 1) and exact GELU.

    Same as ``F.gelu(F.conv2d(x, weight, bias, padding=1, groups=C))``; saves x alone for the backward.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        weight: (C, 1, 3, 3).
        bias: (C,) or None.

    Returns:
        (N, C, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64).

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs.

    Source: SegNeXt (arXiv 2209.08575), section 3.1 (the feed-forward network of VAN, arXiv 2202.09741).
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    c = x.shape[1]
    checks.expect_shape(
        NAME,
        "weight",
        weight,
        (c, 1, 3, 3),
        f"x is {tuple(x.shape)}; depthwise weights have a singleton second axis",
    )
    checks.expect_shape(NAME, "bias", bias, (c,), optional=True)
    for name, tensor in (("weight", weight), ("bias", bias)):
        checks.expect_like(NAME, name, tensor, "x", x)
    return _op(x, weight, bias)


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.dwconv_gelu,
    fake=lambda x, *_: empty_like(x),
    kernels={**compiled.FORWARD, "triton": kernel_of(__package__, "forward")},
    flops=lambda x, weight, *_, **__: convolution_flops(x, weight),
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor[]",
    reference=reference.dwconv_gelu_backward,
    fake=reference.empty_gradients,
    kernels={**compiled.BACKWARD, "triton": kernel_of(__package__, "backward", position=1)},
    flops=lambda grad, x, weight, *_, **__: 2 * convolution_flops(x, weight),
)


def _backward(saved: tuple[Any, ...], _: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, weight, bias = saved
    grads = _backward_op(as_format_of(grad, x), x, weight, bias)
    return (*grads[:2], None if bias is None else grads[2])


define_autograd(NAME, save=lambda inputs, output: (inputs, None), backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME)
define_vmap(NAME)
