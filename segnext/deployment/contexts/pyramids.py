"""ASPP and pyramid pooling deployed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.deployment.contexts.context import (
    FoldedContext,
    Forward,
    Leaf,
    conv_and_norm,
    conv_norm_act,
    named_norm,
    rows,
)
from segnext.deployment.parts import FoldedConv, FoldedNorm, Layers
from segnext.models import SegNeXtConfig
from segnext.models.config import GROUPS
from segnext.models.contexts.aspp import ASPP, DILATIONS
from segnext.models.contexts.pyramid import GRIDS, PyramidPooling
from segnext.models.layers import ConvNormAct


@dataclass(frozen=True)
class ConvNorm:
    """A convolution without bias, in front of GroupNorm and ReLU."""

    conv: FoldedConv
    norm: FoldedNorm

    @classmethod
    def of(cls, layer: nn.Module) -> ConvNorm:
        """Return the weights of a `ConvNormAct` or a `Conv3x3NormAct`."""
        return cls(*conv_and_norm(cast(ConvNormAct, layer)))

    @classmethod
    def named(cls, leaf: Leaf, name: str) -> ConvNorm:
        """Return them by their names in a file."""
        return cls(FoldedConv(leaf(f"{name}.weight")), named_norm(leaf, f"{name}.norm"))

    def pointwise(self, layers: Layers) -> Callable[[Tensor], Tensor]:
        """Make the layers of a 1x1 convolution."""
        return conv_norm_act(layers, self.conv, self.norm)

    def wide(self, layers: Layers, dilation: int = 1) -> Callable[[Tensor], Tensor]:
        """Make the layers of a 3x3 convolution that keeps the size."""
        weight, norm = layers.placed(self.conv).weight, layers.group_norm(self.norm, GROUPS)

        def layer(x: Tensor) -> Tensor:
            y = rows(F.conv2d(x, weight, padding=dilation, dilation=dilation))
            return norm(y, y)

        return layer


@dataclass(frozen=True)
class FoldedASPP(FoldedContext):
    """The weights of ASPP; the first branch is 1x1."""

    pooled: ConvNorm
    branches: tuple[ConvNorm, ...]
    bottleneck: ConvNorm

    @classmethod
    def fold(cls, context: nn.Module) -> FoldedASPP:
        module = cast(ASPP, context)
        branches = tuple(ConvNorm.of(branch) for branch in module.branches)
        return cls(ConvNorm.of(module.pooled), branches, ConvNorm.of(module.bottleneck))

    @classmethod
    def named(cls, leaf: Leaf) -> FoldedASPP:
        branches = tuple(ConvNorm.named(leaf, f"aspp.branches.{i}") for i in range(1 + len(DILATIONS)))
        return cls(ConvNorm.named(leaf, "aspp.pooled"), branches, ConvNorm.named(leaf, "aspp.bottleneck"))

    def layers(self, layers: Layers, config: SegNeXtConfig) -> Forward:
        pooled, bottleneck = self.pooled.pointwise(layers), self.bottleneck.pointwise(layers)
        first, *others = self.branches
        dilated = [branch.wide(layers, dilation) for branch, dilation in zip(others, DILATIONS, strict=True)]
        branches = [first.pointwise(layers), *dilated]

        def forward(x: Tensor, b: Tensor | None, c: Tensor | None) -> Tensor:
            mean = pooled(x.mean((2, 3), keepdim=True)).expand_as(x)
            return bottleneck(torch.cat([mean, *(branch(x) for branch in branches)], 1))

        return forward


@dataclass(frozen=True)
class FoldedPyramid(FoldedContext):
    """The weights of pyramid pooling."""

    levels: tuple[ConvNorm, ...]
    bottleneck: ConvNorm

    @classmethod
    def fold(cls, context: nn.Module) -> FoldedPyramid:
        module = cast(PyramidPooling, context)
        return cls(tuple(ConvNorm.of(level) for level in module.levels), ConvNorm.of(module.bottleneck))

    @classmethod
    def named(cls, leaf: Leaf) -> FoldedPyramid:
        levels = tuple(ConvNorm.named(leaf, f"psp.levels.{i}") for i in range(len(GRIDS)))
        return cls(levels, ConvNorm.named(leaf, "psp.bottleneck"))

    def layers(self, layers: Layers, config: SegNeXtConfig) -> Forward:
        levels, bottleneck = [level.pointwise(layers) for level in self.levels], self.bottleneck.wide(layers)
        align_corners = config.decoder_align_corners

        def forward(x: Tensor, b: Tensor | None, c: Tensor | None) -> Tensor:
            means = [level(F.adaptive_avg_pool2d(x, grid)) for grid, level in zip(GRIDS, levels, strict=True)]
            size = x.shape[2:]
            resized = [F.interpolate(m, size, mode="bilinear", align_corners=align_corners) for m in means]
            return bottleneck(torch.cat([x, *resized], 1))

        return forward
