"""Runs the folded network on the public ops, on any device and with any backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segnext.deployment.network import Network
from segnext.deployment.parts import (
    NORM_EPS,
    FoldedAttention,
    FoldedConv,
    FoldedFeedForward,
    FoldedNorm,
    FoldedWeights,
    Layer,
    Part,
    arguments,
    mapped,
)
from segnext.deployment.plan import Plan
from segnext.models import SegNeXtConfig
from segnext_kernels import (
    channel_norm,
    conv2d_act,
    conv_ffn,
    group_norm_act,
    msca_block,
    nmf2d_projected,
    resize_sum,
)


class FoldedNetwork(Network):
    """Runs without a memory plan: each layer allocates its own result."""

    def __init__(
        self, weights: FoldedWeights, config: SegNeXtConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(weights, config, OpLayers(dtype, device))

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (N, K, ceil(H/8), ceil(W/8)) in float32."""
        return self.run(images, Plan())


class OpLayers:
    """Makes layers of public ops, with weights in ``dtype`` on ``device``; see `segnext.deployment.parts.Layers`."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device

    def stem(self, weights: FoldedConv) -> Layer:
        w = self.placed(weights)
        # The image has any memory format: this convolution reads it as it is, and writes channels_last.
        return lambda x, out: conv2d_act(
            x, w.weight, w.bias, stride=2, padding=1, act="gelu", channels_last=True
        )

    def halving(self, weights: FoldedConv) -> Layer:
        w = self.placed(weights)
        return lambda x, out: conv2d_act(x, w.weight, w.bias, stride=2, padding=1)

    def pointwise(self, weights: FoldedConv, act: str = "none") -> Layer:
        w = self.placed(weights)
        return lambda x, out: conv2d_act(x, w.weight, w.bias, act=act)

    def attention(self, weights: FoldedAttention) -> Layer:
        after_x = arguments(self.placed(weights))
        return lambda x, out, workspace: msca_block(x, *after_x)

    def feed_forward(self, weights: FoldedFeedForward) -> Layer:
        after_x = [*arguments(self.placed(weights)), True]
        return lambda x, out: conv_ffn(x, *after_x)

    def channel_norm(self, weights: FoldedNorm) -> Layer:
        w = self.placed(weights, torch.float32)
        return lambda x, out: channel_norm(x, w.weight, w.bias, NORM_EPS)

    def group_norm(self, weights: FoldedNorm, groups: int) -> Layer:
        w = self.placed(weights, torch.float32)

        def layer(x: Tensor, out: None, residual: Tensor | None = None) -> Tensor:
            return group_norm_act(x, groups, w.weight, w.bias, NORM_EPS, residual=residual)

        return layer

    def resize_sum(self, align_corners: bool = False) -> Layer:
        def layer(levels: Sequence[Tensor], out: None) -> Tensor:
            return resize_sum(levels[0], levels[1:], align_corners)

        return layer

    def nmf(self, bases: Tensor, projection: Tensor, steps: int) -> Layer:
        wide, matrix = self.placed(bases, torch.float32), self.placed(projection).flatten(1)

        def layer(x: Tensor, out: None) -> Tensor:
            return nmf2d_projected(x.flatten(2), wide, steps, matrix).unflatten(2, x.shape[2:])

        return layer

    def logits(self, weights: FoldedConv) -> Layer:
        w = self.placed(weights)
        return lambda x: conv2d_act(x, w.weight, w.bias, float32_out=True)

    def workspace(self, x: Tensor) -> None:
        """Return nothing: the ops allocate what they need."""

    def placed(self, part: Part, dtype: torch.dtype | None = None) -> Part:
        """Move a part to the device; convolution weights get their input channels innermost, as pixels have them."""

        def place(tensor: Tensor) -> Tensor:
            tensor = tensor.to(self.device, dtype or self.dtype)
            return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

        return mapped(part, place)
