"""channel_norm: how its CPU kernel is called."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import memory_format, native


def run(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor
) -> torch.Tensor:
    """Into ``out``, which may be x; weight and bias are contiguous and float32."""
    native.call_cpu("channel_norm", x, x.dtype, x, weight, bias, eps, out)
    return out


def _forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    return run(x, weight.float().contiguous(), bias.float().contiguous(), eps, memory_format.empty_like(x))


def _not_channels_last(x: torch.Tensor, *_: Any) -> str | None:
    if memory_format.has_inner_channels(x):
        return None
    return "takes channels_last tensors; use reference, or x.contiguous(memory_format=torch.channels_last)"


CPU = native.cpu(_forward, native.INFERENCE_DTYPES, refuses=_not_channels_last)
