"""channel_norm: LayerNorm over the channels of each pixel, for inference."""

from __future__ import annotations

import torch

from segnext_kernels import checks
from segnext_kernels.kernel import Limit
from segnext_kernels.memory_format import empty_like
from segnext_kernels.ops.channel_norm import compiled, reference
from segnext_kernels.registration import define_autocast, define_op, define_vmap, forbid_gradient
from segnext_kernels.triton.launch import kernel_of

NAME = "channel_norm"


def channel_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5
) -> torch.Tensor:
    """LayerNorm over the channels of each pixel, for inference.

    Same as ``F.layer_norm(x.permute(0, 2, 3, 1).float(), (C,), weight, bias, eps).to(x.dtype).permute(0, 3, 1, 2)``.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        weight: (C,), float32 or x's dtype.
        bias: (C,), weight's dtype.
        eps: added to the variance.

    Returns:
        (N, C, H, W) in x's dtype and memory format; statistics in float32 (float64 for float64). No gradient.

    Raises:
        ValueError: shapes disagree. TypeError: dtypes. NotImplementedError: no backend takes these inputs, or a
            gradient is asked for.

    Source: Layer Normalization (arXiv 1607.06450); SegNeXt (arXiv 2209.08575) has one behind each stage.
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    checks.expect_affine(NAME, weight, bias, x)
    return _op(x, weight, bias, checks.expect_number(NAME, "eps", eps))


TRITON_CHANNELS = Limit(  # a pixel's channels are held in registers
    lambda x, *_: x.shape[1], 1024, "takes up to {most} channels, not {size}"
)
_op = define_op(
    NAME,
    "(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor",
    reference=reference.channel_norm,
    fake=lambda x, *_: empty_like(x),
    kernels={"cpu": compiled.CPU, "triton": kernel_of(__package__, "forward", limits=(TRITON_CHANNELS,))},
    flops=lambda *args, **_: 0,  # element-wise work: not counted by convention
)
forbid_gradient(NAME, "train with torch.nn.functional.layer_norm")
define_autocast(NAME, "x")  # statistics and affine parameters stay as they are
define_vmap(NAME)
