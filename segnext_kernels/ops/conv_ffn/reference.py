"""conv_ffn in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import depthwise, depthwise_backward, pointwise, pointwise_backward


def conv_ffn(
    x: torch.Tensor,
    fc1_weight: torch.Tensor,
    fc1_bias: torch.Tensor,
    dw_weight: torch.Tensor,
    dw_bias: torch.Tensor,
    fc2_weight: torch.Tensor,
    fc2_bias: torch.Tensor,
    residual: bool,
) -> torch.Tensor:
    hidden = pointwise(x, fc1_weight, fc1_bias)
    hidden = F.gelu(depthwise(hidden, dw_weight, dw_bias))
    out = pointwise(hidden, fc2_weight, fc2_bias)
    return as_format_of(out + x if residual else out, x)


def conv_ffn_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    fc1_weight: torch.Tensor,
    fc1_bias: torch.Tensor,
    dw_weight: torch.Tensor,
    dw_bias: torch.Tensor,
    fc2_weight: torch.Tensor,
    fc2_bias: torch.Tensor,
    residual: bool,
) -> list[torch.Tensor]:
    """Gradients of the seven tensors in order; the hidden tensors are recomputed from x."""
    wide = pointwise(x, fc1_weight, fc1_bias)
    mixed = depthwise(wide, dw_weight, dw_bias)
    grad_hidden, fc2_grads = pointwise_backward(grad, F.gelu(mixed), fc2_weight, fc2_bias)
    grad_mixed = torch.ops.aten.gelu_backward(grad_hidden, mixed)
    grad_wide, dw_grads = depthwise_backward(grad_mixed, wide, dw_weight, dw_bias)
    grad_x, fc1_grads = pointwise_backward(grad_wide, x, fc1_weight, fc1_bias)
    return [as_format_of(grad_x + grad if residual else grad_x, x), *fc1_grads, *dw_grads, *fc2_grads]


def empty_out(x: torch.Tensor, *args: Any) -> torch.Tensor:
    fc2_weight = args[4]
    return empty_like(x, channels=fc2_weight.shape[0])


def empty_gradients(grad: torch.Tensor, x: torch.Tensor, *args: Any) -> list[torch.Tensor]:
    return [empty_like(x), *(p.new_empty(p.shape) for p in args[:6])]
