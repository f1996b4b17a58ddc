"""MLP deployed: `segnext.models.mlp` on folded weights.

BatchNorms go into the convolutions in front of them. `fusion` is applied to each level at its own size; the products
are resized and summed, and nothing is concatenated. Its bias is added to the first level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor

from segnext.deployment.folds import behind
from segnext.deployment.parts import FoldedConv, FoldedDecoder, Layers
from segnext.deployment.plan import count, view
from segnext.models import SegNeXtConfig
from segnext.models.decoder import Decoder
from segnext.models.decoders import stages_of
from segnext.models.mlp import MLP, PointwiseNormAct


@dataclass(frozen=True)
class FoldedMLP(FoldedDecoder):
    """An MLP's weights; ``levels`` and ``fusion`` have one convolution per level."""

    levels: tuple[FoldedConv, ...]
    fusion: tuple[FoldedConv, ...]
    classifier: FoldedConv

    @classmethod
    def fold(cls, decoder: Decoder, config: SegNeXtConfig) -> FoldedMLP:
        assert isinstance(decoder, MLP)
        levels = [cast(PointwiseNormAct, level) for level in decoder.levels]
        fusion = behind(decoder.fusion.conv, decoder.fusion.norm)
        first, *others = fusion.weight.split(config.decoder_channels, 1)
        return cls(
            levels=tuple(behind(level.conv, level.norm) for level in levels),
            fusion=(FoldedConv(first, fusion.bias), *(FoldedConv(weight) for weight in others)),
            classifier=FoldedConv(decoder.classifier.weight, decoder.classifier.bias),
        )

    @classmethod
    def named(cls, config: SegNeXtConfig, leaf: Callable[[str], Any]) -> FoldedMLP:
        def conv(name: str) -> FoldedConv:
            return FoldedConv(leaf(f"{name}.weight"), leaf(f"{name}.bias"))

        levels = range(len(stages_of(config)))
        fusion = tuple(FoldedConv(leaf(f"fusion.{level}.weight")) for level in levels[1:])
        return cls(
            tuple(conv(f"levels.{level}") for level in levels),
            (conv("fusion.0"), *fusion),
            conv("classifier"),
        )

    def layers(self, layers: Layers, config: SegNeXtConfig) -> MLPLayers:
        return MLPLayers(self, layers, config)

    def elements(self, shapes: Sequence[Sequence[int]]) -> int:
        return count(self._level(shapes[0]))

    def memory(self, shapes: Sequence[Sequence[int]], regions: tuple[Tensor, Tensor, Tensor]) -> MLPMemory:
        levels = [self._level(shape) for shape in shapes]
        small = regions[0].new_empty(sum(map(count, levels[1:])))
        mixed = [view(regions[0], levels[0])]
        for shape in levels[1:]:
            mixed.append(view(small, shape))
            small = small[count(shape) :]
        return MLPMemory(tuple(view(regions[1], shape) for shape in levels), tuple(mixed))

    def _level(self, feature: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of what becomes of a feature."""
        return (feature[0], len(self.fusion[0].weight), *feature[2:])


@dataclass(frozen=True)
class MLPMemory:
    """The tensors that the decoder's layers write to; the hidden ones share their memory, for they take turns."""

    hidden: tuple[Tensor | None, ...]
    mixed: tuple[Tensor | None, ...]


class MLPLayers:
    """The layers from the features to logits at the size of the first feature."""

    def __init__(self, weights: FoldedMLP, layers: Layers, config: SegNeXtConfig) -> None:
        self.levels = [layers.pointwise(conv, "relu") for conv in weights.levels]
        self.fusion = [layers.pointwise(conv) for conv in weights.fusion]
        self.resize_sum = layers.resize_sum(config.decoder_align_corners)
        self.classifier = layers.logits(weights.classifier)

    def __call__(self, features: Sequence[Tensor], memory: MLPMemory | None) -> Tensor:
        none = (None,) * len(features)
        at = memory or MLPMemory(none, none)
        mixed = [
            mix(level(feature, hidden), out)
            for level, mix, feature, hidden, out in zip(
                self.levels, self.fusion, features, at.hidden, at.mixed, strict=True
            )
        ]
        return self.classifier(F.relu_(self.resize_sum(mixed, at.mixed[0])))
