"""LightHam deployed: `segnext.models.light_ham` on folded weights.

* `squeeze` is applied to each level at its own size; the products are resized and summed. Nothing is concatenated.
* The Hamburger's `proj_out` is applied to the factorisation's bases instead of to every pixel. This happens at run
  time, because each image has its own bases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from segnext.deployment.parts import FoldedConv, FoldedDecoder, FoldedNorm, Layers
from segnext.deployment.plan import count, view
from segnext.models import SegNeXtConfig
from segnext.models.config import GROUPS
from segnext.models.decoder import Decoder
from segnext.models.light_ham import LightHam


@dataclass(frozen=True)
class FoldedLightHam(FoldedDecoder):
    """A LightHam's weights; ``squeeze`` has one convolution per level."""

    squeeze: tuple[FoldedConv, ...]
    squeeze_norm: FoldedNorm
    proj_in: FoldedConv
    bases: Tensor
    proj_out: Tensor
    ham_norm: FoldedNorm
    align: FoldedConv
    align_norm: FoldedNorm
    classifier: FoldedConv

    stages: ClassVar[tuple[int, ...]] = LightHam.stages

    @classmethod
    def fold(cls, decoder: Decoder, config: SegNeXtConfig) -> FoldedLightHam:
        assert isinstance(decoder, LightHam)
        squeeze, ham, align = decoder.squeeze, decoder.hamburger, decoder.align
        levels = squeeze.conv.weight.split([config.channels[stage] for stage in cls.stages], 1)
        return cls(
            squeeze=tuple(FoldedConv(weight) for weight in levels),
            squeeze_norm=FoldedNorm(squeeze.norm.weight, squeeze.norm.bias),
            proj_in=FoldedConv(ham.proj_in.weight, ham.proj_in.bias),
            bases=ham.bases,
            proj_out=ham.proj_out.weight,
            ham_norm=FoldedNorm(ham.norm.weight, ham.norm.bias),
            align=FoldedConv(align.conv.weight),
            align_norm=FoldedNorm(align.norm.weight, align.norm.bias),
            classifier=FoldedConv(decoder.classifier.weight, decoder.classifier.bias),
        )

    @classmethod
    def named(cls, leaf: Callable[[str], Any]) -> FoldedLightHam:
        def both(name: str) -> tuple[Any, Any]:
            return leaf(f"{name}.weight"), leaf(f"{name}.bias")

        return cls(
            squeeze=tuple(FoldedConv(leaf(f"squeeze.{level}.weight")) for level in range(len(cls.stages))),
            squeeze_norm=FoldedNorm(*both("squeeze.norm")),
            proj_in=FoldedConv(*both("ham.proj_in")),
            bases=leaf("ham.bases"),
            proj_out=leaf("ham.proj_out.weight"),
            ham_norm=FoldedNorm(*both("ham.norm")),
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
        self.proj_in = layers.pointwise(weights.proj_in, "relu")
        self.nmf = layers.nmf(weights.bases, weights.proj_out, config.eval_steps)
        self.ham_norm = layers.group_norm(weights.ham_norm, GROUPS)
        self.align = layers.pointwise(weights.align)
        self.align_norm = layers.group_norm(weights.align_norm, GROUPS)
        self.classifier = layers.logits(weights.classifier)

    def __call__(self, features: Sequence[Tensor], memory: LightHamMemory | None) -> Tensor:
        at = memory or LightHamMemory((None,) * len(features))
        levels = [
            layer(feature, out) for layer, feature, out in zip(self.squeeze, features, at.levels, strict=True)
        ]
        x = self.squeeze_norm(self.resize_sum(levels, at.a), at.a)
        z = self.nmf(self.proj_in(x, at.b), at.c)
        x = self.ham_norm(z, at.b, x)
        x = self.align_norm(self.align(x, at.a), at.a)
        return self.classifier(x)
