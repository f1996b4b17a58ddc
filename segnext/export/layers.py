"""The layers of a folded network in PyTorch's own operators, which every exporter knows.

The network of a deployed model runs on them, whatever its decoder is, see `segnext.deployment.network`. Everything is
contiguous (N, C, H, W): runtimes have their own blocked layouts for convolutions, and 1x1 convolutions that are written
as products between permutes cost ONNX Runtime 46 more reorders.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segnext.deployment.parts import (
    NORM_EPS,
    FoldedAttention,
    FoldedConv,
    FoldedFeedForward,
    FoldedNorm,
    Layer,
    Part,
    mapped,
)

EPS = 1e-6  # of `segnext_kernels.nmf2d`
ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}


class OperatorLayers:
    """Makes layers of PyTorch's operators; see `segnext.deployment.parts.Layers`. Memory given for results is not used.

    Args:
        dtype: of convolutions. What normalises, the factorisation and logits are computed in float32.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype

    def stem(self, weights: FoldedConv) -> Layer:
        w, dtype = self.placed(weights), self.dtype
        return lambda x, out: F.gelu(F.conv2d(x.to(dtype), w.weight, w.bias, 2, 1))

    def halving(self, weights: FoldedConv) -> Layer:
        w = self.placed(weights)
        return lambda x, out: F.conv2d(x, w.weight, w.bias, 2, 1)

    def pointwise(self, weights: FoldedConv, act: str = "none") -> Layer:
        w, activation = self.placed(weights), ACTIVATIONS[act]
        return lambda x, out: activation(F.conv2d(x, w.weight, w.bias))

    def attention(self, weights: FoldedAttention) -> Layer:
        w = self.placed(weights)
        scale, shift = (one.view(1, -1, 1, 1) for one in (w.skip_scale, w.skip_shift))

        def layer(x: Tensor, out: None, workspace: None) -> Tensor:
            u = F.gelu(F.conv2d(x, w.proj_in_weight, w.proj_in_bias))
            m = a = depthwise(u, w.root_weight, w.root_bias)
            strips = zip(w.row_weights, w.row_biases, w.column_weights, w.column_biases, strict=True)
            for row, row_bias, column, column_bias in strips:
                m = m + depthwise(depthwise(a, row, row_bias), column, column_bias)
            gated = F.conv2d(m, w.mix_weight, w.mix_bias) * u
            return F.conv2d(gated, w.proj_out_weight, w.proj_out_bias) + (x * scale + shift)

        return layer

    def feed_forward(self, weights: FoldedFeedForward) -> Layer:
        w = self.placed(weights)

        def layer(x: Tensor, out: None) -> Tensor:
            hidden = F.gelu(depthwise(F.conv2d(x, w.fc1_weight, w.fc1_bias), w.dw_weight, w.dw_bias))
            return F.conv2d(hidden, w.fc2_weight, w.fc2_bias) + x

        return layer

    def channel_norm(self, weights: FoldedNorm) -> Layer:
        w = weights

        def layer(x: Tensor, out: None) -> Tensor:
            pixels = x.permute(0, 2, 3, 1).float()
            normed = F.layer_norm(pixels, w.weight.shape, w.weight, w.bias, NORM_EPS)
            return normed.permute(0, 3, 1, 2).to(x.dtype)

        return layer

    def group_norm(self, weights: FoldedNorm, groups: int) -> Layer:
        w = weights

        def layer(x: Tensor, out: None, residual: Tensor | None = None) -> Tensor:
            y = F.group_norm(x.float(), groups, w.weight, w.bias, NORM_EPS)
            return F.relu(y if residual is None else y + residual).to(x.dtype)

        return layer

    def resize_sum(self, align_corners: bool = False) -> Layer:
        def layer(levels: Sequence[Tensor], out: None) -> Tensor:
            total, *others = levels
            for other in others:
                total = total + resized(other, total, align_corners)
            return total

        return layer

    def nmf(self, bases: Tensor, projection: Tensor, steps: int) -> Layer:
        matrix = projection.flatten(1)

        def layer(x: Tensor, out: None) -> Tensor:
            pixels = x.flatten(2).float()
            b = bases
            c = torch.softmax(pixels.transpose(1, 2) @ b, -1)
            for _ in range(steps):
                c = c * (pixels.transpose(1, 2) @ b) / (c @ (b.transpose(1, 2) @ b) + EPS)
                b = b * (pixels @ c) / (b @ (c.transpose(1, 2) @ c) + EPS)
            c = c * (pixels.transpose(1, 2) @ b) / (c @ (b.transpose(1, 2) @ b) + EPS)
            return ((matrix @ b) @ c.transpose(1, 2)).unflatten(2, x.shape[2:]).to(x.dtype)

        return layer

    def logits(self, weights: FoldedConv) -> Layer:
        w = weights
        return lambda x: F.conv2d(x.float(), w.weight, w.bias)

    def workspace(self, x: Tensor) -> None:
        """Return nothing: operators allocate what they need."""

    def placed(self, part: Part, dtype: torch.dtype | None = None) -> Part:
        """Return the part in the network's dtype, or the one given."""
        return mapped(part, lambda tensor: tensor.to(dtype or self.dtype))


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve each channel by itself; the size stays."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(x, weight, bias, 1, padding, 1, len(weight))


def resized(x: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    """Resize (N, C, h, w) to the height and width of another tensor."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=align_corners)
