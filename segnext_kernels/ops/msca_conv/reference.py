"""msca_conv in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch

from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import depthwise, depthwise_backward


def msca_conv(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: list[torch.Tensor],
    column_weights: list[torch.Tensor],
    row_biases: list[torch.Tensor],
    column_biases: list[torch.Tensor],
) -> torch.Tensor:
    a = depthwise(x, root_weight, root_bias)
    out = a
    for row, row_bias, column, column_bias in _strips(row_weights, column_weights, row_biases, column_biases):
        out = out + depthwise(depthwise(a, row, row_bias), column, column_bias)
    return as_format_of(out, x)


def msca_conv_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: list[torch.Tensor],
    column_weights: list[torch.Tensor],
    row_biases: list[torch.Tensor],
    column_biases: list[torch.Tensor],
) -> list[torch.Tensor]:
    """Gradients of all arguments but ``grad``, in their order, without absent biases; ``a`` and rows are recomputed."""
    a = depthwise(x, root_weight, root_bias)
    grad_a = grad
    grad_rows: list[list[torch.Tensor]] = []  # per strip: of the weight and, if there is one, of the bias
    grad_columns: list[list[torch.Tensor]] = []
    for row, row_bias, column, column_bias in _strips(row_weights, column_weights, row_biases, column_biases):
        grad_row, grad_column_params = depthwise_backward(
            grad, depthwise(a, row, row_bias), column, column_bias
        )
        grad_branch, grad_row_params = depthwise_backward(grad_row, a, row, row_bias)
        grad_a = grad_a + grad_branch
        grad_rows.append(grad_row_params)
        grad_columns.append(grad_column_params)
    grad_x, grad_root_params = depthwise_backward(grad_a, x, root_weight, root_bias)
    grad_weights = [grads[0] for grads in (*grad_rows, *grad_columns)]
    grad_biases = [bias for grads in (*grad_rows, *grad_columns) for bias in grads[1:]]
    return [as_format_of(grad_x, x), *grad_root_params, *grad_weights, *grad_biases]


def empty_gradients(grad: torch.Tensor, x: torch.Tensor, *params: Any) -> list[torch.Tensor]:
    return [empty_like(x), *(p.new_empty(p.shape) for p in in_a_row(*params))]


def in_a_row(
    root_weight: torch.Tensor, root_bias: torch.Tensor | None, *strips: list[torch.Tensor]
) -> list[torch.Tensor]:
    """The parameters in the order of their gradients; an absent root_bias is left out."""
    return [root_weight, *([] if root_bias is None else [root_bias]), *chain(*strips)]


def _strips(
    row_weights: list[torch.Tensor],
    column_weights: list[torch.Tensor],
    row_biases: list[torch.Tensor],
    column_biases: list[torch.Tensor],
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]]:
    """Row, its bias, column and its bias of each strip; None for the biases of an empty list."""
    absent = [None] * len(row_weights)
    return zip(row_weights, row_biases or absent, column_weights, column_biases or absent, strict=True)
