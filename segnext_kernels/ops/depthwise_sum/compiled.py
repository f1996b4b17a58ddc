"""depthwise_sum: how its compiled kernels are called, and the number of convolutions that they have room for."""

from __future__ import annotations

import functools
from typing import Any

import torch

from segnext_kernels import native
from segnext_kernels.kernel import Limit
from segnext_kernels.memory_format import is_channels_last
from segnext_kernels.ops.depthwise_sum.chains import COMBINES
from segnext_kernels.ops.depthwise_sum.reference import empty_gradients, empty_output


def _forward(call: Any, x: torch.Tensor, *params: Any) -> torch.Tensor:
    out = empty_output(x, *params)
    *others, combine = params
    call("depthwise_sum", x, x.dtype, x, *others, COMBINES.index(combine), out)
    return out


def _backward(call: Any, grad: torch.Tensor, x: torch.Tensor, *params: Any) -> list[torch.Tensor]:
    grads = empty_gradients(grad, x, *params)
    *others, combine = params
    call("depthwise_sum_backward", x, x.dtype, x, *others, COMBINES.index(combine), grad, grads)
    return grads


LIMITS = (
    Limit(
        lambda x, weights, *_: len(weights),
        native.constant("DEPTHWISE_SUM_MAX_CONVOLUTIONS"),
        "takes up to {most} convolutions, not {size}",
    ),
    Limit(
        lambda x, weights, biases, dilations, chains, *_: len(chains) - 1,
        native.constant("DEPTHWISE_SUM_MAX_BRANCHES"),
        "takes up to {most} branches, not {size}",
    ),
)
LARGE_MAP = 64 * 64  # pixels


def _few_taps(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    dilations: list[int],
    chains: list[int],
    combine: str,
) -> str | None:
    """Why PyTorch's own convolutions are faster for one or two small kernels: they read x where it lies.

    Measured on two cores of an AMD Zen 4, forward: 0.5 to 1.0 times their speed within these bounds, more outside.
    """
    pixels, taps = x.shape[2] * x.shape[3], sum(weight[0].numel() for weight in weights)
    if combine != "sum" or not is_channels_last(x):
        return None
    if len(weights) == 1:
        is_plain = max(dilations) == 1 or taps <= 9
        light = (taps <= 11 and pixels > 400) or (taps <= 49 and is_plain and pixels > LARGE_MAP)
    else:
        light = len(weights) == 2 and taps <= 18 and pixels > LARGE_MAP
    return f"PyTorch is faster for {taps} taps on {pixels} pixels" if light else None


def _few_taps_backward(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    dilations: list[int],
    chains: list[int],
    combine: str,
) -> str | None:
    """The same of the gradients: 0.5 to 0.8 times the speed for one dense kernel of up to nine taps."""
    is_small = len(weights) == 1 and weights[0][0].numel() <= 9 and max(dilations) == 1
    if not is_small or x.shape[2] * x.shape[3] <= LARGE_MAP:
        return None
    return _few_taps(x, weights, biases, dilations, chains, combine)


FORWARD = {
    "cpu": native.cpu(functools.partial(_forward, native.call_cpu), limits=LIMITS, slower=_few_taps),
}
BACKWARD = {
    "cpu": native.cpu(
        functools.partial(_backward, native.call_cpu), position=1, limits=LIMITS, slower=_few_taps_backward
    ),
}
