"""pointwise in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

import torch

from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops import convolutions


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return as_format_of(convolutions.pointwise(x, weight, bias), x)


def pointwise_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    """Gradients of x, weight, [bias]."""
    grad_x, grad_params = convolutions.pointwise_backward(grad, x, weight, bias)
    return [as_format_of(grad_x, x), *grad_params]


def empty_out(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return empty_like(x, weight.shape[0])


def empty_gradients(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    params = [weight] if bias is None else [weight, bias]
    return [empty_like(x), *(p.new_empty(p.shape) for p in params)]
