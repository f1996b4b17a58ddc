"""channel_norm: LayerNorm over the channels of each pixel, for inference."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks, memory_format, native
from segnext_kernels.backend import Kernel
from segnext_kernels.ops.channel_norm import reference
from segnext_kernels.registration import define_autocast, define_op, define_vmap, forbid_gradient
from segnext_kernels.triton import launch

NAME = "channel_norm"
TRITON_WIDEST = 1024


def _fake(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return memory_format.empty_like(x)


def _cpu_refuses(x: torch.Tensor, *_: Any) -> str | None:
    if x.numel() and not (memory_format.is_channels_last(x) or x.shape[1] == 1):
        return (
            "takes channels_last tensors; use reference, or x.contiguous(memory_format=torch.channels_last)"
        )
    return native.cpu_refuses(x, (torch.float32, torch.bfloat16))


def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """The CPU kernel into ``out``, which may be x; weight and bias are contiguous and float32."""
    native._C.channel_norm_cpu(
        native.DTYPES[x.dtype], native.view(x), native.view(weight), native.view(bias), eps,
        native.view(out), native.instruction_set(), torch.get_num_threads(),
    )  # fmt: skip


def _cpu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    out = memory_format.empty_like(x)
    run(x, weight.float().contiguous(), bias.float().contiguous(), eps, out)
    return out


def _triton_refuses(x: torch.Tensor, *_: Any) -> str | None:
    if x.shape[1] > TRITON_WIDEST:  # a pixel's channels are held in registers
        return f"takes up to {TRITON_WIDEST} channels, not {x.shape[1]}"
    return None


_op = define_op(
    NAME,
    "(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor",
    reference=reference.channel_norm,
    fake=_fake,
    kernels={
        "triton": launch.kernel(__package__, "forward", refuses_more=_triton_refuses),
        "cpu": Kernel(_cpu, _cpu_refuses),
    },
    flops=lambda *args, **_: 0,  # element-wise work: not counted by convention
)
forbid_gradient(NAME, "train with torch.nn.functional.layer_norm")
define_autocast(
    NAME, lambda low, x, *rest: (low(x), *rest)
)  # statistics and affine parameters stay as they are
define_vmap(NAME)


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
    for name, tensor in (("weight", weight), ("bias", bias)):
        checks.expect_shape(NAME, name, tensor, (x.shape[1],), f"x is {tuple(x.shape)}")
        checks.expect_device(NAME, name, tensor, "x", x)
    if weight.dtype not in (x.dtype, memory_format.accumulator_dtype(x.dtype)) or bias.dtype != weight.dtype:
        raise TypeError(
            f"{NAME}: weight and bias must both be float32 or both {x.dtype} as x,"
            f" got {weight.dtype} and {bias.dtype}; convert them with .to()"
        )
    return _op(x, weight, bias, eps)
