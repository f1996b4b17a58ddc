"""dwconv_gelu: how its compiled kernels are called."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import memory_format, native
from segnext_kernels.ops.dwconv_gelu.reference import empty_gradients


def _forward(call: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out = memory_format.empty_like(x)
    call("dwconv_gelu", x, x.dtype, x, weight, bias, out)
    return out


def _backward(
    call: Any, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    grads = empty_gradients(grad, x, weight, bias)
    grad_bias = None if bias is None else grads[2]
    call("dwconv_gelu_backward", x, x.dtype, x, weight, bias, grad, *grads[:2], grad_bias, workspace=True)
    return grads


FORWARD = native.both(_forward)
BACKWARD = native.both(_backward, position=1)
