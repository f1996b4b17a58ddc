"""msca_conv: the multi-scale strip convolution of SegNeXt's attention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.msca_conv import compiled, reference
from segnext_kernels.ops.msca_conv.strips import STRIP_LISTS, TRITON_STRIPS, expect_strips, unequal_strips
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton.launch import kernel_of

NAME = "msca_conv"
PARAMETERS = ("x", "root_weight", "root_bias", "row_weights", "column_weights", "row_biases", "column_biases")
ARGUMENTS = (
    "Tensor x, Tensor root_weight, Tensor? root_bias,"
    " Tensor[] row_weights, Tensor[] column_weights, Tensor[] row_biases, Tensor[] column_biases"
)


def msca_conv(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: Sequence[torch.Tensor],
    column_weights: Sequence[torch.Tensor],
    row_biases: Sequence[torch.Tensor],
    column_biases: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Multi-scale strip convolution of SegNeXt: a depthwise root, then the sum of its strip branches.

    Same as ``a = dw(x, root); a + sum(dw(dw(a, row), column))``; every convolution zero-pads its own input.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        root_weight: (C, 1, K, K), K odd (5 in SegNeXt).
        root_bias: (C,) or None.
        row_weights: (C, 1, 1, K) for each strip, K odd (7, 11, 21 in SegNeXt); any number.
        column_weights: (C, 1, K, 1) for each strip.
        row_biases, column_biases: (C,) for each strip; or empty.

    Returns:
        (N, C, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64).
        Tensor cores (16-bit types, SegNeXt's sizes) multiply zeros beside the taps too: there a NaN or Inf spreads
        up to 22 rows and 34 columns within its channel, instead of 12; in the gradient of x, 35 rows and 37 columns.

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these
            inputs; the reasons are listed.

    Source: SegNeXt (arXiv 2209.08575), eq. 1.
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    given = (row_weights, column_weights, row_biases, column_biases)
    lists = [checks.expect_tensors(NAME, *named) for named in zip(STRIP_LISTS, given, strict=True)]
    expect_strips(NAME, x, root_weight, root_bias, *lists)
    return _op(x, root_weight, root_bias, *lists)


TRITON: dict[str, Any] = {"limits": (TRITON_STRIPS,), "refuses": unequal_strips}


def _flops(x: Any, root_weight: Any, root_bias: Any, rows: Any, columns: Any, *_: Any, **__: Any) -> int:
    return sum(convolution_flops(x, weight) for weight in (root_weight, *rows, *columns))


def _flops_backward(grad: Any, *args: Any, **_: Any) -> int:
    # input and weight gradients of every convolution; the recomputed forward is not counted, as by convention
    return 2 * _flops(*args)


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.msca_conv,
    fake=lambda x, *_: empty_like(x),
    kernels={**compiled.FORWARD, "triton": kernel_of(__package__, "forward", **TRITON)},
    flops=_flops,
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor[]",
    reference=reference.msca_conv_backward,
    fake=reference.empty_gradients,
    kernels={**compiled.BACKWARD, "triton": kernel_of(__package__, "backward", position=1, **TRITON)},
    flops=_flops_backward,
)


def _save(inputs: tuple[Any, ...], output: Any) -> tuple[tuple[Any, ...], Any]:
    x, root_weight, root_bias, *lists = inputs
    return (x, root_weight, root_bias, *chain(*lists)), [len(tensors) for tensors in lists]


def _backward(saved: tuple[Any, ...], lengths: list[int], grad: torch.Tensor) -> tuple[Any, ...]:
    x, root_weight, root_bias, *rest = saved
    grads = _backward_op(as_format_of(grad, x), x, root_weight, root_bias, *_lists(rest, lengths))
    single = 2 if root_bias is None else 3
    grad_x, grad_root_weight, grad_root_bias = (*grads[:single], None)[:3]
    return grad_x, grad_root_weight, grad_root_bias, *_lists(grads[single:], lengths)


def _lists(tensors: Iterable[torch.Tensor], lengths: list[int]) -> list[list[torch.Tensor]]:
    """The tensors, which follow each other, as lists of these lengths."""
    rest = iter(tensors)
    return [list(islice(rest, length)) for length in lengths]


define_autograd(NAME, save=_save, backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME)
define_vmap(NAME)
