"""The interface between deployed decoders and contexts, and the layers that contexts share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.deployment.parts import NORM_EPS, FoldedConv, FoldedNorm, Layers
from segnext.models import SegNeXtConfig
from segnext.models.config import GROUPS
from segnext.models.layers import ConvNormAct

# forward(x, b, c) returns the result, which shares no memory with x. All are (N, D, H, W) in channels_last; b and c are
# memory that it may write to, or None.
Forward = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
# pointwise(x) returns its result in memory of its own
Pointwise = Callable[[Tensor], Tensor]
Leaf = Callable[[str], Any]


class FoldedContext(ABC):
    """A deployed decoder's context; a subclass is a dataclass of tensors and of `segnext.deployment.parts`."""

    @classmethod
    @abstractmethod
    def fold(cls, context: nn.Module) -> FoldedContext:
        """Return the folded weights of a module."""

    @classmethod
    @abstractmethod
    def named(cls, leaf: Leaf) -> FoldedContext:
        """Return the same structure in which each tensor is ``leaf(name)``, with its name in a file."""

    @abstractmethod
    def layers(self, layers: Layers, config: SegNeXtConfig) -> Forward:
        """Return the forward pass."""


def affine(norm: nn.GroupNorm) -> FoldedNorm:
    """Return a GroupNorm's scale and shift."""
    return FoldedNorm(norm.weight, norm.bias)


def conv_and_norm(layer: ConvNormAct) -> tuple[FoldedConv, FoldedNorm]:
    """Return the weights of a 1x1 convolution with GroupNorm and ReLU."""
    return FoldedConv(layer.conv.weight), affine(layer.norm)


def side_by_side(*convs: nn.Conv2d) -> FoldedConv:
    """Return several 1x1 convolutions of the same input, with bias, as one."""
    biases = [conv.bias for conv in convs if conv.bias is not None]
    return FoldedConv(torch.cat([conv.weight for conv in convs]), torch.cat(biases))


def named_conv(leaf: Leaf, name: str) -> FoldedConv:
    """Return a convolution with bias by its names in a file."""
    return FoldedConv(leaf(f"{name}.weight"), leaf(f"{name}.bias"))


def named_norm(leaf: Leaf, name: str) -> FoldedNorm:
    """Return a normalisation by its names in a file."""
    return FoldedNorm(leaf(f"{name}.weight"), leaf(f"{name}.bias"))


def empty(x: Tensor, channels: int) -> Tensor:
    """Return new memory for (N, channels, H, W) beside x (N, C, H, W), in channels_last."""
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """Return x in channels_last, as layers read it; mostly it is."""
    return x.contiguous(memory_format=torch.channels_last)


def pointwise(layers: Layers, weights: FoldedConv, act: str = "none") -> Pointwise:
    """Make a 1x1 convolution that writes to new memory."""
    layer, channels = layers.pointwise(weights, act), len(weights.weight)
    return lambda x: layer(rows(x), empty(x, channels))


def conv_norm_act(layers: Layers, conv: FoldedConv, norm: FoldedNorm) -> Pointwise:
    """Make a 1x1 convolution with GroupNorm and ReLU that writes to new memory."""
    first, second = pointwise(layers, conv), layers.group_norm(norm, GROUPS)

    def layer(x: Tensor) -> Tensor:
        y = first(x)
        return second(y, y)

    return layer


def group_norm(layers: Layers, weights: FoldedNorm) -> Pointwise:
    """Make a GroupNorm without ReLU that writes to new memory."""
    placed = layers.placed(weights)
    return lambda x: F.group_norm(x, GROUPS, placed.weight, placed.bias, NORM_EPS)
