"""LightHam deployed: `segnext.models.light_ham` on folded weights.

`squeeze` is applied to each level at its own size; the products are resized and summed. Nothing is concatenated. The
context between `squeeze` and `align` folds itself, see `segnext.deployment.contexts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from segnext.deployment.contexts.context import FoldedContext
from segnext.deployment.contexts.table import CONTEXTS
from segnext.deployment.parts import FoldedConv, FoldedDecoder, FoldedNorm, Layers
from segnext.deployment.plan import count, view
from segnext.models import SegNeXtConfig
from segnext.models.config import GROUPS
from segnext.models.decoder import Decoder
from segnext.models.decoders import stages_of
from segnext.models.light_ham import LightHam


@dataclass(frozen=True)
class FoldedLightHam(FoldedDecoder):
    """A LightHam's weights; ``squeeze`` has one convolution per level."""

    squeeze: tuple[FoldedConv, ...]
    squeeze_norm: FoldedNorm
    context: FoldedContext | None
    align: FoldedConv
    align_norm: FoldedNorm
    classifier: FoldedConv

    @classmethod
    def fold(cls, decoder: Decoder, config: SegNeXtConfig) -> FoldedLightHam:
        assert isinstance(decoder, LightHam)
        squeeze, align, context = decoder.squeeze, decoder.align, decoder.context
        levels = squeeze.conv.weight.split([config.channels[stage] for stage in decoder.stages], 1)
        return cls(
            squeeze=tuple(FoldedConv(weight) for weight in levels),
            squeeze_norm=FoldedNorm(squeeze.norm.weight, squeeze.norm.bias),
            context=None if context is None else CONTEXTS[str(config.context)].fold(context),
            align=FoldedConv(align.conv.weight),
            align_norm=FoldedNorm(align.norm.weight, align.norm.bias),
            classifier=FoldedConv(decoder.classifier.weight, decoder.classifier.bias),
        )

    @classmethod
    def named(cls, config: SegNeXtConfig, leaf: Callable[[str], Any]) -> FoldedLightHam:
        def both(name: str) -> tuple[Any, Any]:
            return leaf(f"{name}.weight"), leaf(f"{name}.bias")

        levels = range(len(stages_of(config)))
        return cls(
            squeeze=tuple(FoldedConv(leaf(f"squeeze.{level}.weight")) for level in levels),
            squeeze_norm=FoldedNorm(*both("squeeze.norm")),
            context=None if config.context is None else CONTEXTS[config.context].named(leaf),
            align=FoldedConv(leaf("align.weight")),
            align_norm=FoldedNorm(*both("align.norm")),
            classifier=FoldedConv(*both("classifier")),
        )

    def layers(self, layers: Layers, config: SegNeXtConfig) -> LightHamLayers:
        return LightHamLayers(self, layers, config)

    def elements(self, shapes: Sequence[Sequence[int]]) -> int:
        return count(self._level(shapes[0]))

    def memory(
        self, shapes: Sequence[Sequence[int]], regions: tuple[Tensor, Tensor, Tensor]
    ) -> LightHamMemory:
        first, *others = (self._level(shape) for shape in shapes)
        small = regions[0].new_empty(sum(map(count, others)))
        levels = [view(regions[0], first)]
        for shape in others:
            levels.append(view(small, shape))
            small = small[count(shape) :]
        return LightHamMemory(tuple(levels), *(view(region, first) for region in regions))

    def _level(self, feature: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a feature's own product."""
        return (feature[0], len(self.align.weight), *feature[2:])


@dataclass(frozen=True)
class LightHamMemory:
    """The tensors that the decoder's layers write to; the first level and `a` are the same memory."""

    levels: tuple[Tensor | None, ...]
    a: Tensor | None = None
    b: Tensor | None = None
    c: Tensor | None = None


class LightHamLayers:
    """The layers from the features to logits at the size of the first feature."""

    def __init__(self, weights: FoldedLightHam, layers: Layers, config: SegNeXtConfig) -> None:
        self.squeeze = [layers.pointwise(conv) for conv in weights.squeeze]
        self.resize_sum = layers.resize_sum(config.decoder_align_corners)
        self.squeeze_norm = layers.group_norm(weights.squeeze_norm, GROUPS)
        self.context = None if weights.context is None else weights.context.layers(layers, config)
        self.align = layers.pointwise(weights.align)
        self.align_norm = layers.group_norm(weights.align_norm, GROUPS)
        self.classifier = layers.logits(weights.classifier)

    def __call__(self, features: Sequence[Tensor], memory: LightHamMemory | None) -> Tensor:
        at = memory or LightHamMemory((None,) * len(features))
        levels = [
            layer(feature, out) for layer, feature, out in zip(self.squeeze, features, at.levels, strict=True)
        ]
        x = self.squeeze_norm(self.resize_sum(levels, at.a), at.a)
        place = at.b
        if self.context is not None:
            x, place = self.context(x, at.b, at.c), at.a
        x = self.align_norm(self.align(x, place), place)
        return self.classifier(x)
