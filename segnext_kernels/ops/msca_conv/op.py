"""msca_conv: the multi-scale strip convolution of SegNeXt's attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.kernel import Limit
from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.msca_conv import compiled, reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton.launch import kernel_of

NAME = "msca_conv"
ARGUMENTS = "Tensor x, Tensor root_weight, Tensor? root_bias, Tensor[] strip_weights, Tensor[] strip_biases"


def msca_conv(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: Sequence[torch.Tensor],
    strip_biases: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Multi-scale strip convolution of SegNeXt: a depthwise root, then the sum of its strip branches.

    Same as ``a = dw(x, root); a + sum(dw(dw(a, row), column))``; every convolution zero-pads its own input.
    On a GPU, with SegNeXt's sizes in 16-bit types, tensor cores multiply zeros beside the taps too: a NaN or Inf
    in x spreads up to 22 rows and 34 columns away in its channel, instead of 12.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        root_weight: (C, 1, K, K), K odd (5 in SegNeXt).
        root_bias: (C,) or None.
        strip_weights: [row0 (C, 1, 1, K0), column0 (C, 1, K0, 1), row1, column1, ...], each K odd
            (7, 11, 21 in SegNeXt); any number of pairs.
        strip_biases: (C,) each, in the order of strip_weights; or empty.

    Returns:
        (N, C, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64).
        On tensor cores (16-bit types, SegNeXt's sizes) a NaN or Inf spreads further than the taps reach, within
        its channel; in the gradient of x up to 35 rows and 37 columns.

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these
            inputs; the reasons are listed.

    Source: SegNeXt (arXiv 2209.08575), eq. 1.
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    checks.expect_strips(NAME, x, root_weight, root_bias, strip_weights, strip_biases)
    return _op(x, root_weight, root_bias, list(strip_weights), list(strip_biases))


TRITON_STRIPS = Limit(
    lambda x, root_weight, root_bias, strip_weights, *_: len(strip_weights),
    6,  # three pairs, as SegNeXt has: the Triton kernels name a sum for each
    "takes up to {most} strip weights, not {size}",
)


def _flops(x: Any, root_weight: Any, root_bias: Any, strip_weights: Any, *_: Any, **__: Any) -> int:
    return convolution_flops(x, root_weight) + sum(convolution_flops(x, w) for w in strip_weights)


def _flops_backward(grad: Any, *args: Any, **_: Any) -> int:
    # input and weight gradients of every convolution; the recomputed forward is not counted, as by convention
    return 2 * _flops(*args)


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.msca_conv,
    fake=lambda x, *_: empty_like(x),
    kernels={**compiled.FORWARD, "triton": kernel_of(__package__, "forward", limits=(TRITON_STRIPS,))},
    flops=_flops,
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor[]",
    reference=reference.msca_conv_backward,
    fake=reference.empty_gradients,
    kernels={
        **compiled.BACKWARD,
        "triton": kernel_of(__package__, "backward", position=1, limits=(TRITON_STRIPS,)),
    },
    flops=_flops_backward,
)


def _save(inputs: tuple[Any, ...], output: Any) -> tuple[tuple[Any, ...], Any]:
    x, root_weight, root_bias, strip_weights, strip_biases = inputs
    return (x, root_weight, root_bias, *strip_weights, *strip_biases), len(strip_weights)


def _backward(saved: tuple[Any, ...], strips: int, grad: torch.Tensor) -> tuple[Any, ...]:
    x, root_weight, root_bias, *rest = saved
    weights, biases = rest[:strips], rest[strips:]
    grads = _backward_op(as_format_of(grad, x), x, root_weight, root_bias, weights, biases)
    grad_x, grad_root_weight = grads[:2]
    tail = grads[2:] if root_bias is None else grads[3:]
    return grad_x, grad_root_weight, None if root_bias is None else grads[2], tail[:strips], tail[strips:]


define_autograd(NAME, save=_save, backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME, "x", "root_weight", "root_bias", "strip_weights", "strip_biases")
define_vmap(NAME)
