"""gated_pointwise: how its compiled kernels are called; on the CPU, without the gate, a 1x1 convolution too."""

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


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`convolutions.pointwise` by the CPU kernel, in channels_last: the same bits for any number of threads."""
    n, _, h, w = x.shape
    out = x.new_empty((n, h, w, weight.shape[0])).movedim(-1, 1)
    native.call_cpu("gated_pointwise", x, x.dtype, x, None, weight, bias, out)
    return out


def pointwise_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """`convolutions.pointwise_backward` by the CPU kernel: the same bits for any number of threads."""
    grad_x, grad_weight = memory_format.empty_like(x), weight.new_empty(weight.shape)
    grad_bias = None if bias is None else bias.new_empty(bias.shape)
    grads = (grad_x, None, grad_weight, grad_bias)
    native.call_cpu("gated_pointwise_backward", x, x.dtype, x, None, weight, bias, grad, *grads)
    return grad_x, [grad_weight] if grad_bias is None else [grad_weight, grad_bias]


def _slower(*args: Any) -> str | None:
    """Why "auto" leaves inputs to Triton's kernel, which is there: an H200's times, in bfloat16 and channels_last."""
    m = args[0]
    if m.dtype == torch.float32 or not memory_format.is_channels_last(m):
        return None
    return "1.4 to 2.1 times as slow as Triton's" if would_take("gated_pointwise", "triton", args) else None


FORWARD = native.both(_forward, on_cuda={"slower": _slower})
BACKWARD = native.both(_backward, position=1)
