"""Takes chains of convolution layers apart: weights, biases and dilations, as the registered operator takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from segnext_kernels import checks
from segnext_kernels.ops.depthwise_sum.chains import REMEDY

# A layer, or its parameters: weight (C, 1, Kh, Kw), bias (C,) or None, and the dilation, 1 if it is left out.
Convolution = (
    nn.Conv2d | tuple[torch.Tensor, torch.Tensor | None] | tuple[torch.Tensor, torch.Tensor | None, Any]
)
CONVOLUTION = "an nn.Conv2d or a tuple (weight, bias) or (weight, bias, dilation)"


@dataclass(frozen=True)
class Parameters:
    """Chains of convolutions in the operator's form.

    Attributes:
        names: how the caller names each convolution: "branches[0][1]".
    """

    weights: list[torch.Tensor]
    biases: list[torch.Tensor]
    dilations: list[int]
    chains: list[int]
    names: list[str]

    def label(self, kind: str, index: int) -> str:
        """The name of a weight or bias in messages, a `chains.Label`."""
        return f"{self.names[index]}.{kind}"


def parameters(op: str, root: Sequence[Convolution], branches: Sequence[Sequence[Convolution]]) -> Parameters:
    """Take the root and the branches apart. Where only some convolutions have a bias, the others get zeros."""
    named = [("root", root)]
    named += [(f"branches[{i}]", branch) for i, branch in enumerate(_listed(op, "branches", branches))]
    weights: list[torch.Tensor] = []
    biases: list[torch.Tensor | None] = []
    dilations: list[int] = []
    chains, names = [], []
    for chain_name, chain in named:
        layers = _listed(op, chain_name, chain)
        chains.append(len(layers))
        for i, layer in enumerate(layers):
            name = f"{chain_name}[{i}]"
            weight, bias, dilation = _depthwise(op, name, layer)
            weights.append(weight)
            biases.append(bias)
            dilations += dilation
            names.append(name)
    if all(bias is None for bias in biases):
        return Parameters(weights, [], dilations, chains, names)
    filled = [
        weight.new_zeros(weight.shape[0]) if bias is None else bias
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return Parameters(weights, filled, dilations, chains, names)


def pointwise_parameters(op: str, mix: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of a 1x1 convolution, a layer or a tuple of both."""
    if isinstance(mix, nn.Conv2d):
        _expect_plain(op, "mix", mix)
        if mix.kernel_size != (1, 1) or mix.groups != 1 or mix.stride != (1, 1) or not _keeps_size(mix):
            raise ValueError(f"{op}: mix must be a 1x1 convolution of stride 1 and one group, got {mix}")
        return mix.weight, mix.bias
    if isinstance(mix, tuple) and len(mix) == 2:
        return mix
    raise TypeError(f"{op}: mix must be an nn.Conv2d or a tuple (weight, bias), got {type(mix).__name__}")


def _listed(op: str, name: str, values: Any) -> list[Any]:
    is_tensor_tuple = isinstance(values, tuple) and bool(values) and isinstance(values[0], torch.Tensor)
    try:
        if not is_tensor_tuple and not isinstance(values, torch.Tensor):
            return list(values)
    except TypeError:
        pass
    kind = "chains" if name == "branches" else "convolutions"
    got = "one convolution" if is_tensor_tuple else type(values).__name__
    raise TypeError(f"{op}: {name} must be a sequence of {kind}, got {got}; put it into a list")


def _depthwise(op: str, name: str, layer: Any) -> tuple[torch.Tensor, torch.Tensor | None, tuple[int, int]]:
    """Weight, bias and dilation of a convolution of stride 1 that keeps the size; their shapes are checked later."""
    if isinstance(layer, nn.Conv2d):
        _expect_plain(op, name, layer)
        if layer.stride != (1, 1) or not _keeps_size(layer):
            raise ValueError(f"{op}: {name} must have stride 1 and padding that keeps the size, got {layer}")
        if not layer.groups == layer.in_channels == layer.out_channels:
            raise ValueError(f"{op}: {name} must have as many groups as channels, got {layer}; {REMEDY}")
        return layer.weight, layer.bias, (layer.dilation[0], layer.dilation[1])
    if not isinstance(layer, tuple) or len(layer) not in (2, 3):
        raise TypeError(f"{op}: {name} must be {CONVOLUTION}, got {type(layer).__name__}")
    given = layer[2] if len(layer) == 3 else 1
    pair = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, given)
    y, x = (expect_dilation(op, f"{name}.dilation", value) for value in pair)
    return layer[0], layer[1], (y, x)


def expect_dilation(op: str, name: str, value: Any) -> int:
    """A dilation of one axis."""
    return checks.expect_integer(op, name, value, 1, "an integer, at least 1")


def _expect_plain(op: str, name: str, layer: nn.Conv2d) -> None:
    """A layer whose call does nothing but convolve, since the op takes its parameters and does not call it."""
    kind = type(layer)
    replaced = kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward
    if replaced or "forward" in layer.__dict__ or "_conv_forward" in layer.__dict__:
        raise ValueError(
            f"{op}: {name} must be a plain nn.Conv2d, got {kind.__name__} with a forward of its own; if that is a plain"
            " convolution too, give (weight, bias, dilation)"
        )
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        raise ValueError(
            f"{op}: {name} must have no hooks, got some; the op would not call them: call the layers one by one"
        )
    if layer.padding_mode != "zeros":
        raise ValueError(f"{op}: {name} must have padding_mode 'zeros', got {layer.padding_mode!r}")


def _keeps_size(layer: nn.Conv2d) -> bool:
    if isinstance(layer.padding, str):
        return layer.padding == "same" or layer.kernel_size == (1, 1)
    reach = zip(layer.kernel_size, layer.dilation, strict=True)
    return tuple(layer.padding) == tuple(size // 2 * dilation for size, dilation in reach)
