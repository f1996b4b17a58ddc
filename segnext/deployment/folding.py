"""A SegNeXt's weights folded for inference: normalisation and layer scales disappear into the convolutions.

Exact up to rounding: every fold is around a 1x1 convolution, or behind a dense one, so that no border is touched
(docs/model.md, section 6):

* BatchNorm behind a convolution (stem, downsampling) scales its weights;
* ``norm1`` and ``norm2`` of a block, s z + t, go into ``proj_in`` and ``fc1``; the attention's inner shortcut is
  norm1(z), so the block's skip becomes z (1 + l s) + l t with the layer scale l, which goes into ``proj_out``;
* the second layer scale goes into ``fc2``;
* the Hamburger's ``proj_out`` is taken of the factorisation's bases, not of the pixels (at run time: the bases are
  the image's own);
* ``squeeze`` of the concatenated, resized features is the sum of each level's own product, resized.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from segnext.models import SegNeXt
from segnext.models.light_ham import LightHam
from segnext.models.msca import Block

Weights = dict[str, Tensor]
# The order in which msca_block and conv_ffn take what `attention` and `feed_forward` give.
MSCA_BLOCK = (
    "proj_in_weight", "proj_in_bias", "root_weight", "root_bias",
    "row_weights", "column_weights", "row_biases", "column_biases",
    "mix_weight", "mix_bias", "proj_out_weight", "proj_out_bias", "skip_scale", "skip_shift",
)  # fmt: skip
CONV_FFN = ("fc1_weight", "fc1_bias", "dw_weight", "dw_bias", "fc2_weight", "fc2_bias")


def fold(model: SegNeXt) -> Weights:
    """Everything that inference needs, by flat names, in float32 on the CPU.

    Folded in float64, so that the only roundings are those of the result.
    """
    encoder, decoder = model.backbone, model.decoder
    assert isinstance(decoder, LightHam)
    weights: Weights = {}

    def add(prefix: str, **tensors: Tensor) -> None:
        weights.update({f"{prefix}.{name}": tensor for name, tensor in tensors.items()})

    stem = encoder.stem
    add("stem.0", **_behind(stem.conv1, stem.norm1))
    add("stem.1", **_behind(stem.conv2, stem.norm2))
    for i, layer in enumerate(encoder.downsamples):
        add(f"downsample.{i}", **_behind(*cast("tuple[nn.Conv2d, nn.BatchNorm2d]", (layer.conv, layer.norm))))
    for i, (stage, norm) in enumerate(zip(encoder.stages, encoder.norms, strict=True)):
        for j, block in enumerate(cast("list[Block]", stage)):
            add(f"attention.{i}.{j}", **dict(_attention(block)))
            add(f"ffn.{i}.{j}", **_feed_forward(block))
        add(f"norm.{i}", **_affine(norm))
    split = decoder.squeeze.conv.weight.split(model.config.channels[1:], 1)
    for i, weight in enumerate(split):
        add(f"squeeze.{i}", weight=weight)
    ham = decoder.hamburger
    add("squeeze.norm", **_affine(decoder.squeeze.norm))
    add("ham.proj_in", **_affine(ham.proj_in))
    add("ham", bases=ham.bases)
    add("ham.proj_out", weight=ham.proj_out.weight)
    add("ham.norm", **_affine(ham.norm))
    add("align", weight=decoder.align.conv.weight)
    add("align.norm", **_affine(decoder.align.norm))
    add("classifier", **_affine(decoder.classifier))
    return {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in weights.items()}


def msca_block_arguments(weights: Weights, prefix: str) -> list[Any]:
    """The arguments of `segnext_kernels.msca_block` after x, from a folded block's attention."""
    strips = sum(name.startswith(f"{prefix}.row_weights.") for name in weights)
    return [
        [weights[f"{prefix}.{name}.{i}"] for i in range(strips)]
        if name.startswith(("row_", "column_"))
        else weights[f"{prefix}.{name}"]
        for name in MSCA_BLOCK
    ]


def conv_ffn_arguments(
    weights: Weights, prefix: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of `segnext_kernels.conv_ffn` after x, from a folded block's feed-forward network."""
    fc1, fc1_bias, dw, dw_bias, fc2, fc2_bias = (weights[f"{prefix}.{name}"] for name in CONV_FFN)
    return fc1, fc1_bias, dw, dw_bias, fc2, fc2_bias


def _affine(module: nn.Module) -> Weights:
    """A module's own weight and bias."""
    return {"weight": cast(Tensor, module.weight), "bias": cast(Tensor, module.bias)}


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """s and t of norm(z) = s z + t, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _wide(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    return conv.weight.double(), bias.double()


def _behind(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Weights:
    """norm(conv(x)) as one convolution."""
    (weight, bias), (scale, shift) = _wide(conv), _scale_and_shift(norm)
    return {"weight": weight * scale.view(-1, 1, 1, 1), "bias": bias * scale + shift}


def _before(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """conv(norm(x)) as one 1x1 convolution."""
    (weight, bias), (scale, shift) = _wide(conv), _scale_and_shift(norm)
    return weight * scale.view(1, -1, 1, 1), bias + weight.flatten(1) @ shift


def _scaled(conv: nn.Conv2d, layer_scale: Tensor) -> tuple[Tensor, Tensor]:
    """layer_scale * conv(x) as one convolution."""
    weight, bias = _wide(conv)
    return weight * layer_scale.double().view(-1, 1, 1, 1), bias * layer_scale.double()


def _attention(block: Block) -> Iterator[tuple[str, Tensor]]:
    attention, layer_scale = block.attention, block.layer_scale1.double()
    scale, shift = _scale_and_shift(block.norm1)
    strips = attention.strips
    yield from zip(("proj_in_weight", "proj_in_bias"), _before(attention.proj_in, block.norm1), strict=True)
    yield from zip(("root_weight", "root_bias"), _wide(strips.root), strict=True)
    for side, convs in (("row", strips.rows), ("column", strips.columns)):
        for i, conv in enumerate(convs):
            assert isinstance(conv, nn.Conv2d)
            yield from zip((f"{side}_weights.{i}", f"{side}_biases.{i}"), _wide(conv), strict=True)
    yield from zip(("mix_weight", "mix_bias"), _wide(attention.mix), strict=True)
    yield from zip(
        ("proj_out_weight", "proj_out_bias"), _scaled(attention.proj_out, layer_scale), strict=True
    )
    yield "skip_scale", 1 + layer_scale * scale
    yield "skip_shift", layer_scale * shift


def _feed_forward(block: Block) -> Weights:
    ffn = block.ffn
    convolutions = (
        _before(ffn.fc1, block.norm2),
        _wide(ffn.dwconv),
        _scaled(ffn.fc2, block.layer_scale2),
    )
    return dict(zip(CONV_FFN, (t for pair in convolutions for t in pair), strict=True))
