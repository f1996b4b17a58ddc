"""depthwise_sum: how its compiled kernels are called, and the number of convolutions that they have room for."""

from __future__ import annotations

import functools
from typing import Any

import torch

from segnext_kernels import native
from segnext_kernels.kernel import Limit
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
FORWARD = {"cpu": native.cpu(functools.partial(_forward, native.call_cpu), limits=LIMITS)}
BACKWARD = {"cpu": native.cpu(functools.partial(_backward, native.call_cpu), position=1, limits=LIMITS)}
