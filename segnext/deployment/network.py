"""Defines the forward pass of a folded network, once for all kinds of layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from segnext.deployment.parts import FoldedAttention, FoldedVariant, FoldedWeights, Layer, Layers
from segnext.deployment.plan import Plan
from segnext.deployment.variants import VariantAttention
from segnext.models import SegNeXtConfig
from segnext.models.decoders import stages_of


@dataclass(frozen=True)
class Stage:
    """The layers of an encoder's stage; a block is a pair of attention and feed-forward network."""

    entry: Layer
    blocks: list[tuple[Layer, Layer]]
    norm: Layer


class Network:
    """A folded network's layers, and the forward pass from the image to the logits."""

    def __init__(self, weights: FoldedWeights, config: SegNeXtConfig, layers: Layers) -> None:
        self.read = stages_of(config)
        self.stem = layers.stem(weights.stem)
        self.stages = [
            Stage(
                layers.halving(stage.entry),
                [
                    (_attention(b.attention, layers), layers.feed_forward(b.feed_forward))
                    for b in stage.blocks
                ],
                layers.channel_norm(stage.norm),
            )
            for stage in weights.stages[: self.read[-1] + 1]  # nobody reads what comes after
        ]
        self.decode = weights.decoder.layers(layers, config)

    def run(self, images: Tensor, plan: Plan) -> Tensor:
        """Return logits (N, K, h, w) in float32 at the decoder's size, in memory of their own."""
        x = self.stem(images, plan.stem)
        features = []
        for stage, memory in zip(self.stages, plan.stages, strict=False):
            x = stage.entry(x, memory.x)
            for attention, feed_forward in stage.blocks:
                x = feed_forward(attention(x, memory.y, plan.workspace), memory.x)
            x = stage.norm(x, memory.feature)
            features.append(x)
        return self.decode([features[stage] for stage in self.read], plan.decoder)


def _attention(weights: FoldedAttention | FoldedVariant, layers: Layers) -> Layer:
    return (
        VariantAttention(weights, layers) if isinstance(weights, FoldedVariant) else layers.attention(weights)
    )
