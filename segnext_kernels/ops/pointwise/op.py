"""pointwise: a 1x1 convolution, with its gradients."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.memory_format import as_format_of, is_channels_last
from segnext_kernels.ops import convolutions
from segnext_kernels.ops.pointwise import compiled, reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)

NAME = "pointwise"
ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias"


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """1x1 convolution, a matrix product over pixels.

    Same as ``F.conv2d(x, weight, bias)``. By the CPU kernel the result has the same bits for any number of threads.

    Args:
        x: (N, Ci, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        weight: (Co, Ci, 1, 1), same dtype.
        bias: (Co,) or None.

    Returns:
        (N, Co, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64).

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs.

    Source: SegNeXt (arXiv 2209.08575), section 3.1: the mixing of channels.
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, Ci, H, W)")
    checks.expect_shape(NAME, "weight", weight, ("Co", x.shape[1], 1, 1), f"x is {tuple(x.shape)}")
    checks.expect_shape(NAME, "bias", bias, weight.shape[:1], optional=True)
    for name, tensor in (("weight", weight), ("bias", bias)):
        checks.expect_like(NAME, name, tensor, "x", x)
    return _op(x, weight, bias)


def mix_channels(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`convolutions.pointwise`, by the op where its kernel is faster: in float32, channels_last, on a CPU.

    Elsewhere PyTorch's own operators do it, through which torch.compile and torch.func see. The result is
    channels_last.
    """
    if (
        x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and is_channels_last(x)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    ):
        return _op(x, weight, bias)
    return convolutions.pointwise(x, weight, bias)


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.pointwise,
    fake=reference.empty_out,
    kernels=compiled.FORWARD,
    flops=lambda x, weight, *_, **__: convolutions.convolution_flops(x, weight),
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor[]",
    reference=reference.pointwise_backward,
    fake=reference.empty_gradients,
    kernels=compiled.BACKWARD,
    flops=lambda grad, x, weight, *_, **__: 2 * convolutions.convolution_flops(x, weight),
)


def _backward(saved: tuple[Any, ...], _: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, weight, bias = saved
    grads = _backward_op(as_format_of(grad, x), x, weight, bias)
    return (*grads[:2], None if bias is None else grads[2])


define_autograd(NAME, save=lambda inputs, output: (inputs, None), backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME)
define_vmap(NAME)
