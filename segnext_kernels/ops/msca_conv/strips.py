"""The depthwise parameters of msca_conv, which msca_block has too: their checks, and the limits of kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.kernel import Limit

STRIP_LISTS = ("row_weights", "column_weights", "row_biases", "column_biases")


def most_strips(most: int | Callable[[], int]) -> Limit:
    """The limit on a kernel's number of strips."""
    return Limit(
        lambda x, root_weight, root_bias, row_weights, *_: len(row_weights),
        most,
        "takes up to {most} strips, not {size}",
    )


MOST_TRITON_STRIPS = 3  # SegNeXt's number; the Triton kernels have one named variable per strip
TRITON_STRIPS = most_strips(MOST_TRITON_STRIPS)


def unequal_strips(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: Sequence[torch.Tensor],
    column_weights: Sequence[torch.Tensor],
    *_: Any,
) -> str | None:
    """Why the Triton kernels, which know one size per strip, do not take these."""
    for row, column in zip(row_weights, column_weights, strict=True):
        if row.shape[3] != column.shape[2]:
            return f"takes a row and a column of equal length, not {row.shape[3]} and {column.shape[2]} taps"
    return None


def expect_strips(
    op: str,
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: Sequence[torch.Tensor],
    column_weights: Sequence[torch.Tensor],
    row_biases: Sequence[torch.Tensor],
    column_biases: Sequence[torch.Tensor],
) -> None:
    """Check the op's depthwise parameters against x (N, C, H, W)."""
    c, strips = x.shape[1], len(row_weights)
    if len(column_weights) != strips:
        raise ValueError(
            f"{op}: column_weights must be as many as row_weights ({strips}), got {len(column_weights)}"
        )
    for name, biases in (("row_biases", row_biases), ("column_biases", column_biases)):
        if len(biases) not in (0, strips):
            raise ValueError(
                f"{op}: {name} must be empty or as many as row_weights ({strips}), got {len(biases)}"
            )
    weights: list[tuple[str, torch.Tensor, Sequence[int | str]]] = [
        ("root_weight", root_weight, (c, 1, "K", "K")),
        *((f"row_weights[{i}]", weight, (c, 1, 1, "K")) for i, weight in enumerate(row_weights)),
        *((f"column_weights[{i}]", weight, (c, 1, "K", 1)) for i, weight in enumerate(column_weights)),
    ]
    remedy = f"x is {tuple(x.shape)}; depthwise weights have a singleton second axis and odd sizes"
    for name, weight, shape in weights:
        checks.expect_shape(op, name, weight, shape, remedy)
        height, width = weight.shape[2:]
        if height % 2 == 0 or width % 2 == 0 or (name == "root_weight" and height != width):
            raise ValueError(f"{op}: {name} must have odd kernel sizes, got {tuple(weight.shape)}; {remedy}")
        checks.expect_like(op, name, weight, "x", x)
    vectors = {
        "root_bias": root_bias,
        **{f"row_biases[{i}]": bias for i, bias in enumerate(row_biases)},
        **{f"column_biases[{i}]": bias for i, bias in enumerate(column_biases)},
    }
    for name, bias in vectors.items():
        checks.expect_shape(op, name, bias, (c,), optional=name == "root_bias")
        checks.expect_like(op, name, bias, "x", x)
