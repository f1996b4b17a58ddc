"""The parts of a folded network: typed weights, and the interfaces of layers and decoders.

`segnext.deployment.network` runs them; `segnext.deployment.modules` (public ops) and
`segnext.deployment.packed` (packed weights, planned memory) make the layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from segnext.models import SegNeXtConfig
from segnext.models.decoder import Decoder

NORM_EPS = 1e-5  # for LayerNorm and GroupNorm
Part = TypeVar("Part")
# layer(x, out) returns its result, which it writes to the memory `out`; if `out` is None, it allocates its own.
Layer = Callable[..., Tensor]


@dataclass(frozen=True)
class FoldedConv:
    """A dense convolution."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class FoldedNorm:
    """Scale and shift of a normalisation whose statistics are the image's own; float32 in every network."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class FoldedAttention:
    """The arguments of `segnext_kernels.msca_block` after x, in its order."""

    proj_in_weight: Tensor
    proj_in_bias: Tensor
    root_weight: Tensor
    root_bias: Tensor
    row_weights: tuple[Tensor, ...]
    column_weights: tuple[Tensor, ...]
    row_biases: tuple[Tensor, ...]
    column_biases: tuple[Tensor, ...]
    mix_weight: Tensor
    mix_bias: Tensor
    proj_out_weight: Tensor
    proj_out_bias: Tensor
    skip_scale: Tensor
    skip_shift: Tensor


@dataclass(frozen=True)
class FoldedVariant:
    """An attention that `msca_block` cannot compute: with a large kernel as in VAN, or without the product.

    Attributes:
        proj_in: in front of the GELU that gives u.
        root: depthwise, in front of the branches.
        rows, columns: of the strip branches; empty in front of a dilated convolution.
        dilated: depthwise, in place of the strips; or None.
        mix: in front of the product with u. None: without product, and then part of ``proj_out``.
        proj_out: with the layer scale.
        skip_scale, skip_shift: of the block's own input, see `segnext.deployment.folding`.
    """

    proj_in: FoldedConv
    root: FoldedConv
    rows: tuple[FoldedConv, ...]
    columns: tuple[FoldedConv, ...]
    dilated: FoldedConv | None
    mix: FoldedConv | None
    proj_out: FoldedConv
    skip_scale: Tensor
    skip_shift: Tensor


@dataclass(frozen=True)
class FoldedFeedForward:
    """The arguments of `segnext_kernels.conv_ffn` after x, in its order."""

    fc1_weight: Tensor
    fc1_bias: Tensor
    dw_weight: Tensor
    dw_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor


@dataclass(frozen=True)
class FoldedBlock:
    """A block of the encoder."""

    attention: FoldedAttention | FoldedVariant
    feed_forward: FoldedFeedForward


@dataclass(frozen=True)
class FoldedStage:
    """A stage of the encoder; its entry is the stem's second convolution or a downsampling."""

    entry: FoldedConv
    blocks: tuple[FoldedBlock, ...]
    norm: FoldedNorm


class FoldedDecoder(ABC):
    """A deployed model's decoder; a subclass is a dataclass of tensors and of the parts above.

    It reads the features of the stages that `segnext.models.decoders.stages_of` tells.
    """

    @classmethod
    @abstractmethod
    def fold(cls, decoder: Decoder, config: SegNeXtConfig) -> FoldedDecoder:
        """Return the folded weights of a decoder module."""

    @classmethod
    @abstractmethod
    def named(cls, config: SegNeXtConfig, leaf: Callable[[str], Any]) -> FoldedDecoder:
        """Return the same structure in which each tensor is ``leaf(name)``, with its name in a file."""

    @abstractmethod
    def layers(self, layers: Layers, config: SegNeXtConfig) -> Callable[[Sequence[Tensor], Any], Tensor]:
        """Return the forward pass: from the features, and the result of `memory` or None, to logits."""

    @abstractmethod
    def elements(self, shapes: Sequence[Sequence[int]]) -> int:
        """Return how many elements `memory` needs in each of the three regions.

        Args:
            shapes: (N, C, H, W) of the features.
        """

    @abstractmethod
    def memory(self, shapes: Sequence[Sequence[int]], regions: tuple[Tensor, Tensor, Tensor]) -> Any:
        """Return what the layers write to: parts of three flat regions, free after the encoder, or new memory."""


@dataclass(frozen=True)
class FoldedWeights:
    """All weights that inference needs."""

    stem: FoldedConv
    stages: tuple[FoldedStage, ...]
    decoder: FoldedDecoder


class Layers(Protocol):
    """Makes the layers of a folded network."""

    def placed(self, part: Part, dtype: torch.dtype | None = None) -> Part:
        """Return a part in the network's dtype, or the one given, on its device, for the public ops and PyTorch's."""

    def workspace(self, x: Tensor) -> Tensor | None:
        """Return new memory for an attention on x; None where ops allocate it."""

    def stem(self, weights: FoldedConv) -> Layer:
        """3x3 convolution with stride 2 and GELU, from a float32 image of any strides to channels_last."""

    def halving(self, weights: FoldedConv) -> Layer:
        """3x3 convolution with stride 2."""

    def pointwise(self, weights: FoldedConv, act: str = "none") -> Layer:
        """1x1 convolution with activation "none", "relu" or "gelu"."""

    def attention(self, weights: FoldedAttention) -> Layer:
        """`segnext_kernels.msca_block`, called with (x, out, workspace)."""

    def feed_forward(self, weights: FoldedFeedForward) -> Layer:
        """`segnext_kernels.conv_ffn` with the residual."""

    def channel_norm(self, weights: FoldedNorm) -> Layer:
        """`segnext_kernels.channel_norm`."""

    def group_norm(self, weights: FoldedNorm, groups: int) -> Layer:
        """`segnext_kernels.group_norm_act` with ReLU, called with (x, out) or (x, out, residual)."""

    def resize_sum(self, align_corners: bool = False) -> Layer:
        """`segnext_kernels.resize_sum` of a sequence, whose first tensor gives the size."""

    def nmf(self, bases: Tensor, projection: Tensor, steps: int) -> Layer:
        """`segnext_kernels.nmf2d_projected` over the pixels of (N, C, H, W); the projection is (P, C, 1, 1)."""

    def logits(self, weights: FoldedConv) -> Layer:
        """1x1 convolution to float32, called with (x); its result shares no memory with any other."""


def arguments(part: FoldedAttention | FoldedFeedForward) -> list[Any]:
    """Return the arguments of the part's op after x."""
    return [getattr(part, field.name) for field in fields(part)]


def mapped(part: Part, change: Callable[[Tensor], Tensor]) -> Part:
    """Return the part with `change` applied to every tensor."""
    result: Any = part
    if isinstance(part, Tensor):
        result = change(part)
    elif isinstance(part, tuple):
        result = tuple(mapped(item, change) for item in part)
    elif is_dataclass(part) and not isinstance(part, type):
        result = type(part)(*(mapped(getattr(part, field.name), change) for field in fields(part)))
    return result


def leaves(part: Any) -> Iterator[Any]:
    """Yield a part's tensors (or names in their places) in the order of its fields; an absent bias is left out."""
    if isinstance(part, tuple):
        for item in part:
            yield from leaves(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from leaves(getattr(part, field.name))
    elif part is not None:
        yield part
