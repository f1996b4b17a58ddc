"""gated_pointwise in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

import torch

from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import pointwise, pointwise_backward


def gated_pointwise(
    m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    return as_format_of(pointwise(m, weight, bias) * u, u)


def gated_pointwise_backward(
    grad: torch.Tensor, m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    """Gradients of m, u, weight, [bias]; the gate W m + b is recomputed."""
    grad_u = grad * pointwise(m, weight, bias)
    grad_m, grad_params = pointwise_backward(grad * u, m, weight, bias)
    return [as_format_of(grad_m, m), as_format_of(grad_u, u), *grad_params]


def empty_gradients(
    grad: torch.Tensor, m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    params = [weight] if bias is None else [weight, bias]
    return [empty_like(m), empty_like(u), *(p.new_empty(p.shape) for p in params)]
