"""A SegNeXt's weights folded for inference: normalisation and layer scales disappear into the convolutions.

The result is exact up to rounding (docs/model.md, section 6). Every fold goes into a 1x1 convolution, or onto the
output of a dense one, so zero padding is unaffected.

* BatchNorm behind a convolution (stem, downsampling) goes into its weights and bias.
* ``norm1`` and ``norm2`` of a block, s z + t, go into ``proj_in`` and ``fc1``. The attention's inner shortcut is
  norm1(z), so the block's skip becomes z (1 + l s) + l t with the layer scale l, which goes into ``proj_out``.
* The second layer scale goes into ``fc2``.
* An attention without the 1x1 convolution gets one that changes nothing. One without the product is two 1x1
  convolutions in a row, which become one.
* A decoder folds itself, see `DECODERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from segnext.deployment.folds import behind, in_float64, scale_and_shift
from segnext.deployment.light_ham import FoldedLightHam
from segnext.deployment.mlp import FoldedMLP
from segnext.deployment.parts import (
    FoldedAttention,
    FoldedBlock,
    FoldedConv,
    FoldedDecoder,
    FoldedFeedForward,
    FoldedNorm,
    FoldedStage,
    FoldedVariant,
    FoldedWeights,
    leaves,
    mapped,
)
from segnext.models import SegNeXt, SegNeXtConfig
from segnext.models.config import EncoderConfig
from segnext.models.decoder import Decoder
from segnext.models.decoders import decoder_of
from segnext.models.light_ham import LightHam, OneStage
from segnext.models.mlp import MLP
from segnext.models.msca import Attention, Block, StripConv

Op = TypeVar("Op", FoldedAttention, FoldedFeedForward)
# Each sequence of an attention: its name in a file and its first number there. Rows have the even numbers.
STRIPS = {
    "row_weights": ("strip_weights", 0),
    "column_weights": ("strip_weights", 1),
    "row_biases": ("strip_biases", 0),
    "column_biases": ("strip_biases", 1),
}
# Each further decoder needs a line here.
DECODERS: dict[type[Decoder], type[FoldedDecoder]] = {
    LightHam: FoldedLightHam,
    OneStage: FoldedLightHam,
    MLP: FoldedMLP,
}


def fold(model: SegNeXt) -> FoldedWeights:
    """Return all weights that inference needs, in float32 on the CPU and in memory of their own.

    They are folded in float64, so that only the results are rounded.
    """
    return mapped(
        fold_anywhere(model),
        lambda tensor: tensor.detach().to("cpu", torch.float32, copy=True).contiguous(),
    )


def fold_anywhere(model: SegNeXt) -> FoldedWeights:
    """Return the folded weights on the model's device, which may be meta; some are the model's own tensors."""
    stem, decoder = model.backbone.stem, model.decoder
    downsamples = [
        behind(*cast("tuple[nn.Conv2d, nn.BatchNorm2d]", (layer.conv, layer.norm)))
        for layer in model.backbone.downsamples
    ]
    stages = zip(
        [behind(stem.conv2, stem.norm2), *downsamples],
        cast("list[list[Block]]", model.backbone.stages),
        cast("list[nn.LayerNorm]", model.backbone.norms),
        strict=True,
    )
    return FoldedWeights(
        behind(stem.conv1, stem.norm1),
        tuple(
            FoldedStage(
                entry,
                tuple(FoldedBlock(_attention(block, model.config), _feed_forward(block)) for block in blocks),
                FoldedNorm(norm.weight, norm.bias),
            )
            for entry, blocks, norm in stages
        ),
        DECODERS[type(decoder)].fold(decoder, model.config),
    )


def by_name(config: SegNeXtConfig, weights: FoldedWeights) -> dict[str, Tensor]:
    """Return the weights by their names in a file."""
    names = _named(config, type(weights.decoder), str)
    return dict(zip(leaves(names), leaves(weights), strict=True))


def from_names(config: SegNeXtConfig, tensors: Mapping[str, Tensor]) -> FoldedWeights:
    """Return the weights that a file holds; the inverse of `by_name`.

    Raises:
        KeyError: a tensor is missing.
    """
    return _named(config, DECODERS[decoder_of(config)], tensors.__getitem__)


def _named(config: SegNeXtConfig, decoder: type[FoldedDecoder], leaf: Callable[[str], Any]) -> FoldedWeights:
    """Return folded weights in which each tensor is ``leaf(name)``, with its name in a file."""

    def conv(name: str) -> FoldedConv:
        return FoldedConv(leaf(f"{name}.weight"), leaf(f"{name}.bias"))

    def variant(prefix: str) -> FoldedVariant:
        numbers = range(len(config.strips) if config.attention == "msca" else 0)
        return FoldedVariant(
            conv(f"{prefix}.proj_in"),
            conv(f"{prefix}.root"),
            tuple(conv(f"{prefix}.rows.{i}") for i in numbers),
            tuple(conv(f"{prefix}.columns.{i}") for i in numbers),
            conv(f"{prefix}.dilated") if config.attention == "lka" else None,
            conv(f"{prefix}.mix") if config.gate else None,
            conv(f"{prefix}.proj_out"),
            leaf(f"{prefix}.skip_scale"),
            leaf(f"{prefix}.skip_shift"),
        )

    def part(kind: type[Op], prefix: str) -> Op:
        values: dict[str, Any] = {}
        for name in (field.name for field in fields(kind)):
            if name in STRIPS:
                stored, first = STRIPS[name]
                numbers = range(first, 2 * len(config.strips), 2)
                values[name] = tuple(leaf(f"{prefix}.{stored}.{i}") for i in numbers)
            else:
                values[name] = leaf(f"{prefix}.{name}")
        return kind(**values)

    def attention(prefix: str) -> FoldedAttention | FoldedVariant:
        return variant(prefix) if _is_variant(config) else part(FoldedAttention, prefix)

    return FoldedWeights(
        conv("stem.0"),
        tuple(
            FoldedStage(
                conv(f"downsample.{i - 1}" if i else "stem.1"),
                tuple(
                    FoldedBlock(attention(f"attention.{i}.{j}"), part(FoldedFeedForward, f"ffn.{i}.{j}"))
                    for j in range(depth)
                ),
                FoldedNorm(leaf(f"norm.{i}.weight"), leaf(f"norm.{i}.bias")),
            )
            for i, depth in enumerate(config.depths)
        ),
        decoder.named(config, leaf),
    )


def _before(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return conv(norm(x)) as one 1x1 convolution."""
    (weight, bias), (scale, shift) = in_float64(conv), scale_and_shift(norm)
    return weight * scale.view(1, -1, 1, 1), bias + weight.flatten(1) @ shift


def _scaled(conv: nn.Conv2d, layer_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return layer_scale * conv(x) as one convolution."""
    weight, bias = in_float64(conv)
    return weight * layer_scale.double().view(-1, 1, 1, 1), bias * layer_scale.double()


def _is_variant(config: EncoderConfig) -> bool:
    """Whether the op of the published attention cannot compute a network's attentions."""
    return config.attention != "msca" or not config.gate


def _attention(block: Block, config: EncoderConfig) -> FoldedAttention | FoldedVariant:
    attention, layer_scale = cast(Attention, block.attention), block.layer_scale1.double()
    scale, shift = scale_and_shift(block.norm1)
    skip = {"skip_scale": 1 + layer_scale * scale, "skip_shift": layer_scale * shift}
    spatial = attention.strips
    pairs = (spatial.rows, spatial.columns) if isinstance(spatial, StripConv) else ((), ())
    rows, columns = ([in_float64(cast(nn.Conv2d, conv)) for conv in convs] for convs in pairs)
    proj_in, proj_out = _before(attention.proj_in, block.norm1), _scaled(attention.proj_out, layer_scale)
    mix = in_float64(attention.mix) if attention.mix is not None else _unchanged(attention.proj_out)
    if _is_variant(config):
        return FoldedVariant(
            FoldedConv(*proj_in),
            FoldedConv(*in_float64(spatial.root)),
            tuple(FoldedConv(*conv) for conv in rows),
            tuple(FoldedConv(*conv) for conv in columns),
            None if isinstance(spatial, StripConv) else FoldedConv(*in_float64(spatial.dilated)),
            FoldedConv(*mix) if attention.gate else None,
            FoldedConv(*(proj_out if attention.gate else _after_each_other(mix, proj_out))),
            **skip,
        )
    return FoldedAttention(
        *proj_in,
        *in_float64(spatial.root),
        tuple(weight for weight, _ in rows),
        tuple(weight for weight, _ in columns),
        tuple(bias for _, bias in rows),
        tuple(bias for _, bias in columns),
        *mix,
        *proj_out,
        **skip,
    )


def _unchanged(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return a 1x1 convolution like ``conv`` that gives its input."""
    weight, bias = in_float64(conv)
    return torch.eye(len(weight), dtype=weight.dtype, device=weight.device)[..., None, None], 0 * bias


def _after_each_other(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return two 1x1 convolutions as one."""
    matrix = second[0].flatten(1)
    return (matrix @ first[0].flatten(1))[..., None, None], matrix @ first[1] + second[1]


def _feed_forward(block: Block) -> FoldedFeedForward:
    ffn = block.ffn
    return FoldedFeedForward(
        *_before(ffn.fc1, block.norm2), *in_float64(ffn.dwconv), *_scaled(ffn.fc2, block.layer_scale2)
    )
