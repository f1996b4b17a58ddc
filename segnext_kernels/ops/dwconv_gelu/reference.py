"""dwconv_gelu in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import depthwise, depthwise_backward


def dwconv_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return as_format_of(F.gelu(depthwise(x, weight, bias)), x)


def dwconv_gelu_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    """Gradients of x, weight, [bias]; the convolution is recomputed."""
    grad_y = torch.ops.aten.gelu_backward(grad, depthwise(x, weight, bias))
    grad_x, grad_params = depthwise_backward(grad_y, x, weight, bias)
    return [as_format_of(grad_x, x), *grad_params]


def empty_gradients(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    params = [weight] if bias is None else [weight, bias]
    return [empty_like(x), *(p.new_empty(p.shape) for p in params)]
