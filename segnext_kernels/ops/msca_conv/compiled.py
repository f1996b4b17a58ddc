"""msca_conv: how its compiled kernels are called, and the sizes that they have room for."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import memory_format, native
from segnext_kernels.kernel import Limit
from segnext_kernels.ops.msca_conv.reference import empty_gradients
from segnext_kernels.ops.msca_conv.strips import most_strips


def _forward(call: Any, x: torch.Tensor, *params: Any) -> torch.Tensor:
    out = memory_format.empty_like(x)
    call("msca_conv", x, x.dtype, x, *params, out)
    return out


def _backward(call: Any, grad: torch.Tensor, x: torch.Tensor, *params: Any) -> list[torch.Tensor]:
    grads = empty_gradients(grad, x, *params)
    call("msca_conv_backward", x, x.dtype, x, *params, grad, grads, workspace=True)
    return grads


def _longest(weights: list[torch.Tensor]) -> int:
    return max((max(weight.shape[2:]) for weight in weights), default=0)


def limits(root: str, taps: str) -> tuple[Limit, ...]:
    """The library's, by the names of its constants for the root's side and the longest strip."""
    return (
        most_strips(native.constant("MSCA_CONV_MAX_STRIPS")),
        Limit(
            lambda x, root_weight, *_: root_weight.shape[2],
            native.constant(root),
            "takes roots of up to {most} taps a side, not {size}",
        ),
        Limit(
            lambda x, root_weight, root_bias, row_weights, column_weights, *_: _longest(
                row_weights + column_weights
            ),
            native.constant(taps),
            "takes strips of up to {most} taps, not {size}",
        ),
    )


CPU_LIMITS = limits("MSCA_CONV_MAX_ROOT", "MSCA_CONV_MAX_TAPS")
FORWARD = native.both(
    _forward,
    on_cpu={"limits": CPU_LIMITS},
    on_cuda={"limits": limits("MSCA_CONV_MAX_ROOT_CUDA", "MSCA_CONV_MAX_TAPS_CUDA")},
)
BACKWARD = native.both(
    _backward,
    position=1,
    on_cpu={"limits": CPU_LIMITS},
    on_cuda={"limits": limits("MSCA_CONV_MAX_ROOT_CUDA", "MSCA_CONV_MAX_TAPS_BACKWARD_CUDA")},
)
