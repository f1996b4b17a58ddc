"""conv2d_act: how its CPU kernel is called, on weights packed for it."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import native
from segnext_kernels.ops.conv2d_act.reference import empty_out

ACTS = {"none": 0, "relu": 1, "gelu": 2}  # csrc/ops/conv2d_act/conv2d_act.h


def pack(weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> native.Packed:
    """The CPU kernel's form of weight and bias, both float32, for pixels of ``dtype``."""
    return native.pack("conv2d_act", dtype, weight, bias)


def run(
    x: torch.Tensor,
    packed: native.Packed,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    act: str,
    out: torch.Tensor,
) -> torch.Tensor:
    """Write into ``out``, in float32 or bfloat16; x has the dtype that the weights were packed for."""
    native.call_cpu(
        "conv2d_act",
        x,
        x.dtype,
        out.dtype,
        x,
        kernel,
        stride,
        padding,
        packed.address,
        ACTS[act],
        out,
        isa=packed.isa,
    )
    return out


def _forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: int,
    act: str,
    float32_out: bool,
    channels_last: bool,
) -> torch.Tensor:
    x = x.to(weight.dtype)
    packed = pack(weight.float(), None if bias is None else bias.float(), x.dtype)
    out = empty_out(x, weight, stride, padding, float32_out, channels_last)
    return run(x, packed, (weight.shape[2], weight.shape[3]), stride, padding, act, out)


def _packs_at_each_call(*_: Any) -> str:
    return "it packs the weights at each call; segnext_kernels.packed.PackedConv2d packs them once"


def _takes_no_such_weight(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> str | None:
    # x alone does not decide: an image may be float32 for weights of any dtype
    return native.reason_against(weight, "cpu", native.INFERENCE_DTYPES)


CPU = native.cpu(_forward, native.INFERENCE_DTYPES, refuses=_takes_no_such_weight, slower=_packs_at_each_call)
