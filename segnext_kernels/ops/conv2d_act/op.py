"""conv2d_act: a dense convolution with bias and activation, for inference."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.ops.conv2d_act import compiled, reference
from segnext_kernels.registration import define_autocast, define_op, define_vmap, forbid_gradient
from segnext_kernels.triton import launch

NAME = "conv2d_act"


def conv2d_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    act: str = "none",
    float32_out: bool = False,
    channels_last: bool = False,
) -> torch.Tensor:
    """A dense convolution with bias and activation, for inference.

    Same as ``act(F.conv2d(x.to(weight.dtype), weight, bias, stride, padding))``: an image in float32 goes into a
    low-precision network, and logits in float32 come out of one, without passes of their own.

    Args:
        x: (N, Ci, H, W), any strides; weight's dtype, or float32.
        weight: (Co, Ci, Kh, Kw); float16, bfloat16, float32, float64; its channels_last form is the fastest.
        bias: (Co,) in weight's dtype, or None.
        stride, padding: of both axes; zeros are padded.
        act: "none", "relu" or "gelu".
        float32_out: return the float32 sums as they are (float64 for float64).
        channels_last: the result's memory format, whatever x's is.

    Returns:
        (N, Co, Ho, Wo) in weight's dtype, in x's memory format; accumulated in float32 (float64 for float64). No
        gradient.

    Raises:
        ValueError: shapes or choices disagree. TypeError: dtypes. NotImplementedError: no backend takes these inputs,
            or a gradient is asked for.
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, Ci, H, W)")
    checks.expect_floating(NAME, "weight", weight, 4, "(Co, Ci, Kh, Kw)")
    checks.expect_shape(NAME, "weight", weight, ("Co", x.shape[1], "Kh", "Kw"), f"x is {tuple(x.shape)}")
    checks.expect_shape(
        NAME, "bias", bias, (weight.shape[0],), f"weight is {tuple(weight.shape)}", optional=True
    )
    checks.expect_choice(NAME, "act", act, tuple(compiled.ACTS))
    checks.expect_device(NAME, "weight", weight, "x", x)
    if x.dtype != torch.float32:  # else the image is rounded to weight's dtype as it is read
        checks.expect_like(NAME, "weight", weight, "x", x)
    checks.expect_like(NAME, "bias", bias, "weight", weight)
    stride = checks.expect_integer(NAME, "stride", stride, 1, "at least 1")
    padding = checks.expect_integer(NAME, "padding", padding, 0, "at least 0")
    float32_out = checks.expect_flag(NAME, "float32_out", float32_out)
    channels_last = checks.expect_flag(NAME, "channels_last", channels_last)
    if min(reference.output_size(x.shape, weight.shape, stride, padding)) < 1:
        raise ValueError(
            f"{NAME}: weight must be no larger than the padded x, got {tuple(weight.shape)} for {tuple(x.shape)}"
            f" padded by {padding}"
        )
    return _op(x, weight, bias, stride, padding, act, float32_out, channels_last)


def _flops(x: Any, weight: Any, _bias: Any, stride: int, padding: int, *_: Any, **__: Any) -> int:
    height, width = reference.output_size(x, weight, stride, padding)
    return 2 * x[0] * height * width * int(torch.Size(weight).numel())


_op = define_op(
    NAME,
    "(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, str act, bool float32_out, bool channels_last)"
    " -> Tensor",
    reference=reference.conv2d_act,
    fake=lambda x, weight, bias, stride, padding, act, *out: reference.empty_out(
        x, weight, stride, padding, *out
    ),
    kernels={
        "cpu": compiled.CPU,
        "triton": launch.kernel_of(
            __package__, "forward", refuses=lambda x, weight, *_: launch.reason_against(weight)
        ),
    },
    flops=_flops,
)
forbid_gradient(NAME, "train with torch.nn.functional.conv2d")
define_autocast(NAME)
define_vmap(NAME)
