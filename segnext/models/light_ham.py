"""LightHam, SegNeXt's decoder: the features of stages 2-4 at H/8, a Hamburger, a classifier.

Paper: SegNeXt (arXiv 2209.08575), figure 3 (c).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.ham import GROUPS, Hamburger
from segnext.models.layers import Pointwise
from segnext.models.msca import initialise_convolutions
from segnext_kernels import group_norm_act


class ConvNormAct(nn.Module):
    """1x1 convolution without bias, GroupNorm(32), ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = Pointwise(in_channels, channels, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H, W)."""
        return group_norm_act(self.conv(x), GROUPS, self.norm.weight, self.norm.bias, self.norm.eps)


class LightHam(nn.Module):
    """Decoder over several features; all are resized to the first one's size and concatenated.

    Args:
        in_channels: channels of the features.
        channels: decoder width, a multiple of 32.
        num_classes: classes of the logits.
        rank, grad, random_eval_bases: see :class:`segnext.models.ham.Hamburger`.
        dropout: rate of the channel dropout before the classifier.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        rank: int,
        grad: str = "unrolled",
        random_eval_bases: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.squeeze = ConvNormAct(sum(in_channels), channels)
        self.hamburger = Hamburger(channels, rank, grad, random_eval_bases)
        self.align = ConvNormAct(channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = Pointwise(channels, num_classes)
        initialise_convolutions(self)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features [(N, C_i, H_i, W_i), ...] to logits (N, num_classes, H_0, W_0)."""
        size = features[0].shape[2:]
        same_size = [features[0]] + [
            F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
            for feature in features[1:]
        ]
        x = self.align(self.hamburger(self.squeeze(torch.cat(same_size, 1))))
        return self.classifier(self.dropout(x))
