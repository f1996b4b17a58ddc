"""Attention deployed: criss-cross, non-local, and the encoder's own.

Projections of the same input are one convolution. Criss-cross attention's factor gamma goes into its values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from segnext.deployment.contexts.context import (
    FoldedContext,
    Forward,
    Leaf,
    affine,
    conv_and_norm,
    conv_norm_act,
    empty,
    group_norm,
    named_conv,
    named_norm,
    pointwise,
    side_by_side,
)
from segnext.deployment.parts import FoldedAttention, FoldedConv, FoldedNorm, Layers
from segnext.models import SegNeXtConfig
from segnext.models.config import STRIPS
from segnext.models.contexts.attention import StripAttention
from segnext.models.contexts.criss_cross import RECURRENCE, CrissCross, criss_cross
from segnext.models.contexts.non_local import NonLocal, non_local
from segnext.models.msca import StripConv


@dataclass(frozen=True)
class FoldedCrissCross(FoldedContext):
    """The weights of criss-cross attention; ``projections`` gives query, key and value times gamma."""

    conv_in: FoldedConv
    norm_in: FoldedNorm
    projections: FoldedConv
    conv_out: FoldedConv
    norm_out: FoldedNorm

    @classmethod
    def fold(cls, context: nn.Module) -> FoldedCrissCross:
        module = cast(CrissCross, context)
        merged = side_by_side(module.query, module.key, module.value)
        assert merged.bias is not None
        factor = torch.ones_like(merged.bias)
        factor[-module.value.out_channels :] = module.gamma.scale.detach()
        scaled = FoldedConv(merged.weight * factor.view(-1, 1, 1, 1), merged.bias * factor)
        return cls(*conv_and_norm(module.conv_in), scaled, *conv_and_norm(module.conv_out))

    @classmethod
    def named(cls, leaf: Leaf) -> FoldedCrissCross:
        return cls(
            FoldedConv(leaf("cc.in.weight")),
            named_norm(leaf, "cc.in.norm"),
            named_conv(leaf, "cc.projections"),
            FoldedConv(leaf("cc.out.weight")),
            named_norm(leaf, "cc.out.norm"),
        )

    def layers(self, layers: Layers, config: SegNeXtConfig) -> Forward:
        first = conv_norm_act(layers, self.conv_in, self.norm_in)
        last = conv_norm_act(layers, self.conv_out, self.norm_out)
        projections, values = pointwise(layers, self.projections), len(self.conv_in.weight)
        inner = (len(self.projections.weight) - values) // 2

        def forward(x: Tensor, b: Tensor | None, c: Tensor | None) -> Tensor:
            y = first(x)
            for _ in range(RECURRENCE):
                y = y + criss_cross(*projections(y).split([inner, inner, values], 1))
            return last(y)

        return forward


@dataclass(frozen=True)
class FoldedNonLocal(FoldedContext):
    """The weights of non-local attention; ``projections`` gives theta, phi and g."""

    projections: FoldedConv
    conv_out: FoldedConv
    norm: FoldedNorm

    @classmethod
    def fold(cls, context: nn.Module) -> FoldedNonLocal:
        module = cast(NonLocal, context)
        projections = side_by_side(module.theta, module.phi, module.g)
        return cls(projections, FoldedConv(module.conv_out.weight), affine(module.norm))

    @classmethod
    def named(cls, leaf: Leaf) -> FoldedNonLocal:
        return cls(
            named_conv(leaf, "nl.projections"), FoldedConv(leaf("nl.out.weight")), named_norm(leaf, "nl.norm")
        )

    def layers(self, layers: Layers, config: SegNeXtConfig) -> Forward:
        projections, conv_out = pointwise(layers, self.projections), pointwise(layers, self.conv_out)
        norm = group_norm(layers, self.norm)

        def forward(x: Tensor, b: Tensor | None, c: Tensor | None) -> Tensor:
            return x + norm(conv_out(non_local(*projections(x).chunk(3, 1))))

        return forward


@dataclass(frozen=True)
class FoldedStripAttention(FoldedContext):
    """The weights of the encoder's attention behind a GroupNorm."""

    norm: FoldedNorm
    attention: FoldedAttention

    @classmethod
    def fold(cls, context: nn.Module) -> FoldedStripAttention:
        module = cast(StripAttention, context).attention
        strips = cast(StripConv, module.strips)
        rows, columns = ([cast(nn.Conv2d, conv) for conv in convs] for convs in (strips.rows, strips.columns))
        ones = torch.ones_like(cast(Tensor, module.proj_in.bias))
        return cls(
            affine(context.norm),  # type: ignore[arg-type]
            FoldedAttention(
                *_pair(module.proj_in),
                *_pair(strips.root),
                tuple(conv.weight for conv in rows),
                tuple(conv.weight for conv in columns),
                tuple(cast(Tensor, conv.bias) for conv in rows),
                tuple(cast(Tensor, conv.bias) for conv in columns),
                *_pair(cast(nn.Conv2d, module.mix)),
                *_pair(module.proj_out),
                skip_scale=ones,
                skip_shift=0 * ones,
            ),
        )

    @classmethod
    def named(cls, leaf: Leaf) -> FoldedStripAttention:
        values: dict[str, Any] = {}
        for name in (field.name for field in fields(FoldedAttention)):
            if name.startswith(("row_", "column_")):
                values[name] = tuple(leaf(f"msca.{name}.{i}") for i in range(len(STRIPS)))
            else:
                values[name] = leaf(f"msca.{name}")
        return cls(named_norm(leaf, "msca.norm"), FoldedAttention(**values))

    def layers(self, layers: Layers, config: SegNeXtConfig) -> Forward:
        norm, attention = group_norm(layers, self.norm), layers.attention(self.attention)

        def forward(x: Tensor, b: Tensor | None, c: Tensor | None) -> Tensor:
            return x + attention(norm(x), empty(x, x.shape[1]), layers.workspace(x))

        return forward


def _pair(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    return conv.weight, cast(Tensor, conv.bias)
