"""conv_ffn: SegNeXt's whole feed-forward network, fc1 - depthwise 3x3 - GELU - fc2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.memory_format import as_format_of
from segnext_kernels.ops.conv_ffn import compiled, reference
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.dwconv_gelu.op import dwconv_gelu
from segnext_kernels.ops.pointwise.op import mix_channels
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton.launch import kernel, kernel_of

NAME = "conv_ffn"
PARAMETERS = ("fc1_weight", "fc1_bias", "dw_weight", "dw_bias", "fc2_weight", "fc2_bias")
ARGUMENTS = f"Tensor x, {', '.join(f'Tensor {name}' for name in PARAMETERS)}, bool residual"


def conv_ffn(
    x: torch.Tensor,
    fc1_weight: torch.Tensor,
    fc1_bias: torch.Tensor,
    dw_weight: torch.Tensor,
    dw_bias: torch.Tensor,
    fc2_weight: torch.Tensor,
    fc2_bias: torch.Tensor,
    residual: bool = False,
    recompute: bool = True,
) -> torch.Tensor:
    """Convolutional feed-forward network: 1x1, depthwise 3x3, exact GELU, 1x1.

    Same as ``conv1x1(gelu(dw3x3(conv1x1(x))))``, plus x if ``residual``. On a GPU one CUDA kernel takes 16-bit inputs
    of up to 320 channels whose widths are multiples of 8; the hidden tensor is never in memory. Three kernels, two of
    them Triton's, take others; above 32 channels they are faster, so "auto" takes them there too.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        fc1_weight: (E, C, 1, 1); fc1_bias: (E,).
        dw_weight: (E, 1, 3, 3); dw_bias: (E,).
        fc2_weight: (Co, E, 1, 1); fc2_bias: (Co,).
        residual: add x to the result (Co = C): inference, with layer scale folded into fc2.
        recompute: in training save x alone and recompute the hidden tensors in the backward;
            False keeps them (faster, E / C times the memory), with PyTorch's products, whose bits may depend on the
            number of threads.

    Returns:
        (N, Co, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64).

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs.

    Source: SegNeXt (arXiv 2209.08575), section 3.1 (the feed-forward network of VAN, arXiv 2202.09741).
    """
    params = (fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias)
    residual = checks.expect_flag(NAME, "residual", residual)
    recompute = checks.expect_flag(NAME, "recompute", recompute)
    check(NAME, x, params, residual)
    if not recompute and torch.is_grad_enabled():
        hidden = dwconv_gelu(mix_channels(x, fc1_weight, fc1_bias), dw_weight, dw_bias)
        out = mix_channels(hidden, fc2_weight, fc2_bias)
        return as_format_of(out + x.to(out.dtype) if residual else out, x)
    return _op(x, *params, residual)


def check(op: str, x: torch.Tensor, params: Sequence[torch.Tensor], residual: bool) -> None:
    """Refuse, in the name of ``op``, parameters that do not fit x or each other."""
    fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias = params
    checks.expect_floating(op, "x", x, 4, "(N, C, H, W)")
    c = x.shape[1]
    checks.expect_shape(op, "fc1_weight", fc1_weight, ("E", c, 1, 1), f"x is {tuple(x.shape)}")
    e, co = fc1_weight.shape[0], c if residual else "Co"
    checks.expect_shape(op, "dw_weight", dw_weight, (e, 1, 3, 3), f"fc1_weight gives {e} channels")
    checks.expect_shape(
        op,
        "fc2_weight",
        fc2_weight,
        (co, e, 1, 1),
        "a residual needs as many channels as x" if residual else "",
    )
    for name, bias, weight in (
        ("fc1_bias", fc1_bias, fc1_weight),
        ("dw_bias", dw_bias, dw_weight),
        ("fc2_bias", fc2_bias, fc2_weight),
    ):
        checks.expect_shape(op, name, bias, weight.shape[:1], "pass zeros for none" if bias is None else "")
    for name, tensor in zip(PARAMETERS, params, strict=True):
        checks.expect_like(op, name, tensor, "x", x)


def _flops(
    x: Any, fc1_weight: Any, fc1_bias: Any, dw_weight: Any, dw_bias: Any, fc2_weight: Any, *_: Any, **__: Any
) -> int:
    return sum(convolution_flops(x, weight) for weight in (fc1_weight, dw_weight, fc2_weight))


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.conv_ffn,
    fake=reference.empty_out,
    kernels={**compiled.FORWARD, "triton": kernel_of(__package__, "forward")},
    flops=_flops,
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor[]",
    reference=reference.conv_ffn_backward,
    fake=reference.empty_gradients,
    kernels={**compiled.BACKWARD, "triton": kernel(compiled.backward_by_pytorch, position=1)},
    flops=lambda grad, x, *args, **_: 2 * _flops(x, *args),
)


def _backward(saved: tuple[Any, ...], residual: bool, grad: torch.Tensor) -> tuple[Any, ...]:
    return (*_backward_op(as_format_of(grad, saved[0]), *saved, residual), None)


define_autograd(NAME, save=lambda inputs, output: (inputs[:7], inputs[7]), backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME)
define_vmap(NAME)
