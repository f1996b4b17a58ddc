"""Atrous spatial pyramid pooling: convolutions of several dilations side by side, and the mean of the image.

Paper: DeepLabV3 (arXiv 1706.05587). Its BatchNorms are GroupNorms here, as in the rest of the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnext.models.config import GROUPS, SegNeXtConfig
from segnext.models.contexts.context import Context
from segnext.models.layers import ConvNormAct, Convolution, norm_act

DILATIONS = (6, 12, 18)


class Conv3x3NormAct(nn.Module):
    """3x3 convolution without bias that keeps the size, GroupNorm(32), ReLU."""

    def __init__(self, in_channels: int, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = Convolution(in_channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H, W)."""
        return norm_act(self.norm, self.conv(x))


class ASPP(Context):
    """A 1x1 convolution, three dilated 3x3 and the image's mean, each in D channels; a 1x1 convolution joins them.

    Args:
        channels: D of the (N, D, H, W) input and output, a multiple of 32.
    """

    attribute = "aspp"
    official_names = (
        ("image_pool.1.conv.{rest}", "aspp.pooled.conv.{rest}"),
        ("image_pool.1.gn.{rest}", "aspp.pooled.norm.{rest}"),
        ("aspp_modules.{branch}.conv.{rest}", "aspp.branches.{branch}.conv.{rest}"),
        ("aspp_modules.{branch}.gn.{rest}", "aspp.branches.{branch}.norm.{rest}"),
        ("aspp_bottleneck.conv.{rest}", "aspp.bottleneck.conv.{rest}"),
        ("aspp_bottleneck.gn.{rest}", "aspp.bottleneck.norm.{rest}"),
    )

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pooled = ConvNormAct(channels, channels)
        dilated = (Conv3x3NormAct(channels, channels, dilation) for dilation in DILATIONS)
        self.branches = nn.ModuleList([ConvNormAct(channels, channels), *dilated])
        self.bottleneck = ConvNormAct((2 + len(DILATIONS)) * channels, channels)

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> ASPP:
        """Make the module of a SegNeXt with this configuration."""
        return cls(config.decoder_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) to (N, D, H, W)."""
        branches = [branch(x) for branch in self.branches]
        mean = self.pooled(x.mean((2, 3), keepdim=True))
        return self.bottleneck(torch.cat([mean.expand_as(x), *branches], 1))
