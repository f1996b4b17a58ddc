"""gated_pointwise: how its compiled kernels are called."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import memory_format, native
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


FORWARD = native.both(_forward)
BACKWARD = native.both(_backward, position=1)
