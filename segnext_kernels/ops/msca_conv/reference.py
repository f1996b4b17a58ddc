"""msca_conv in plain PyTorch: the definition, and its results uninitialised."""

from __future__ import annotations

import torch

from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import depthwise, depthwise_backward


def msca_conv(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: list[torch.Tensor],
    strip_biases: list[torch.Tensor],
) -> torch.Tensor:
    a = depthwise(x, root_weight, root_bias)
    out = a
    for i in range(0, len(strip_weights), 2):
        row_bias, column_bias = strip_biases[i : i + 2] if strip_biases else (None, None)
        row = depthwise(a, strip_weights[i], row_bias)
        out = out + depthwise(row, strip_weights[i + 1], column_bias)
    return as_format_of(out, x)


def msca_conv_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: list[torch.Tensor],
    strip_biases: list[torch.Tensor],
) -> list[torch.Tensor]:
    """Gradients of x, root_weight, [root_bias], strip_weights, strip_biases, in this order; recomputes from x."""
    a = depthwise(x, root_weight, root_bias)
    grad_a = grad
    grad_weights: list[torch.Tensor] = []
    grad_biases: list[torch.Tensor] = []
    for i in range(0, len(strip_weights), 2):
        row_bias, column_bias = strip_biases[i : i + 2] if strip_biases else (None, None)
        row = depthwise(a, strip_weights[i], row_bias)
        grad_row, grad_column_params = depthwise_backward(grad, row, strip_weights[i + 1], column_bias)
        grad_branch, grad_row_params = depthwise_backward(grad_row, a, strip_weights[i], row_bias)
        grad_a = grad_a + grad_branch
        grad_weights += [grad_row_params[0], grad_column_params[0]]
        grad_biases += grad_row_params[1:] + grad_column_params[1:]
    grad_x, grad_root_params = depthwise_backward(grad_a, x, root_weight, root_bias)
    return [as_format_of(grad_x, x), *grad_root_params, *grad_weights, *grad_biases]


def empty_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: list[torch.Tensor],
    strip_biases: list[torch.Tensor],
) -> list[torch.Tensor]:
    biases = [] if root_bias is None else [root_bias]
    params = [root_weight, *biases, *strip_weights, *strip_biases]
    return [empty_like(x), *(p.new_empty(p.shape) for p in params)]
