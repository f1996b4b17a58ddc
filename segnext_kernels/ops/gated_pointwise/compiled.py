"""gated_pointwise: how its compiled kernels are called."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import memory_format, native
from segnext_kernels.backend import would_take
from segnext_kernels.ops.gated_pointwise.reference import empty_gradients


def _forward(
    call: Any, m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    out = memory_format.empty_like(u)
    call("gated_pointwise", m, m.dtype, m, u, weight, bias, out)
    return out


def _backward(
    call: Any,
    grad: torch.Tensor,
    m: torch.Tensor,
    u: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> list[torch.Tensor]:
    grads = empty_gradients(grad, m, u, weight, bias)
    grad_bias = None if bias is None else grads[3]
    call(
        "gated_pointwise_backward",
        m,
        m.dtype,
        m,
        u,
        weight,
        bias,
        grad,
        *grads[:3],
        grad_bias,
        workspace=True,
    )
    return grads


def _slower(*args: Any) -> str | None:
    """Why "auto" leaves inputs to Triton's kernel, which is there: an H200's times, in bfloat16 and channels_last."""
    m = args[0]
    if m.dtype == torch.float32 or not memory_format.is_channels_last(m):
        return None
    return "1.4 to 2.1 times as slow as Triton's" if would_take("gated_pointwise", "triton", args) else None


FORWARD = native.both(_forward, on_cuda={"slower": _slower})
BACKWARD = native.both(_backward, position=1)
