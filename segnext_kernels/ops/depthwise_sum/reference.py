"""depthwise_sum in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch

from segnext_kernels.memory_format import as_format_of, empty_like
from segnext_kernels.ops.convolutions import depthwise, depthwise_backward
from segnext_kernels.ops.depthwise_sum.chains import out_channels, ranges, widths


class _Convolution(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor | None
    dilation: tuple[int, int]


def depthwise_sum(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    dilations: list[int],
    chains: list[int],
    combine: str,
) -> torch.Tensor:
    root, *branches = _in_chains(weights, biases, dilations, chains)
    a = _through(root, x)
    parts = _parts(a, weights, chains, combine)
    results = [_through(branch, part) for branch, part in zip(branches, parts, strict=True)]
    out = as_format_of(reduce(torch.add, results) if combine == "sum" else torch.cat(results, 1), x)
    return out if weights else out.clone()  # without a convolution it may be x itself


def depthwise_sum_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    dilations: list[int],
    chains: list[int],
    combine: str,
) -> list[torch.Tensor]:
    """Gradients of x, weights and biases; the convolutions' inputs are recomputed."""
    root, *branches = _in_chains(weights, biases, dilations, chains)
    inputs, a = _inputs(root, x), _through(root, x)
    parts = _parts(a, weights, chains, combine)
    shared = [grad] * len(branches)
    grads = shared if combine == "sum" else grad.split([part.shape[1] for part in parts], 1)
    grad_parts, params = [], []
    for branch, part, grad_branch in zip(branches, parts, grads, strict=True):
        grad_part, grad_params = _back_through(branch, _inputs(branch, part), grad_branch)
        grad_parts.append(grad_part)
        params += grad_params
    grad_a = torch.cat(grad_parts, 1) if combine == "split" else reduce(torch.add, grad_parts)
    grad_x, grad_params = _back_through(root, inputs, grad_a)
    params = grad_params + params
    grad_x = as_format_of(grad_x, x)
    return [
        grad_x if weights else grad_x.clone(),
        *(grads[0] for grads in params),
        *(bias for grads in params for bias in grads[1:]),
    ]


def empty_output(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    dilations: list[int],
    chains: list[int],
    combine: str,
) -> torch.Tensor:
    return empty_like(x, out_channels(x.shape[1], chains, combine))


def empty_gradients(
    grad: torch.Tensor, x: torch.Tensor, weights: list[torch.Tensor], biases: list[torch.Tensor], *_: Any
) -> list[torch.Tensor]:
    return [empty_like(x), *(p.new_empty(p.shape) for p in (*weights, *biases))]


def _in_chains(
    weights: list[torch.Tensor], biases: list[torch.Tensor], dilations: list[int], chains: list[int]
) -> list[list[_Convolution]]:
    """The convolutions of the root, then those of each branch."""
    pairs = zip(dilations[::2], dilations[1::2], strict=True)
    given: list[Any] = [*biases] or [None] * len(weights)
    convolutions = [_Convolution(*values) for values in zip(weights, given, pairs, strict=True)]
    return [[convolutions[i] for i in chain] for chain in ranges(chains)]


def _parts(
    a: torch.Tensor, weights: list[torch.Tensor], chains: list[int], combine: str
) -> list[torch.Tensor]:
    """What each branch reads of the root's result."""
    if combine != "split":
        return [a] * (len(chains) - 1)
    return list(a.split(widths(a.shape[1], weights, chains, combine), 1))


def _inputs(chain: list[_Convolution], x: torch.Tensor) -> list[torch.Tensor]:
    """What each convolution of a chain reads."""
    inputs = [x]
    for convolution in chain[:-1]:
        inputs.append(depthwise(inputs[-1], *convolution))
    return inputs


def _through(chain: list[_Convolution], x: torch.Tensor) -> torch.Tensor:
    for convolution in chain:
        x = depthwise(x, *convolution)
    return x


def _back_through(
    chain: list[_Convolution], inputs: list[torch.Tensor], grad: torch.Tensor
) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """The gradient of a chain's input, and of each convolution [weight] or [weight, bias]."""
    params = []
    for convolution, x in zip(reversed(chain), reversed(inputs[: len(chain)]), strict=True):
        grad, grad_params = depthwise_backward(grad, x, *convolution)
        params.append(grad_params)
    return grad, params[::-1]
