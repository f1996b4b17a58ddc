"""Pyramid pooling: means over the cells of coarse grids, beside the features themselves.

Paper: PSPNet (arXiv 1612.01105). Its BatchNorms are GroupNorms here, as in the rest of the decoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.config import SegNeXtConfig
from segnext.models.contexts.aspp import Conv3x3NormAct
from segnext.models.contexts.context import Context
from segnext.models.layers import ConvNormAct

GRIDS = (1, 2, 3, 6)


class PyramidPooling(Context):
    """Means over grids, each with a 1x1 convolution and resized to the input; a 3x3 convolution joins them with it.

    Args:
        channels: D of the (N, D, H, W) input and output, a multiple of 32.
        align_corners: how the means are resized.
    """

    attribute = "pyramid"
    official_names = (
        ("psp_modules.{branch}.1.conv.{rest}", "pyramid.levels.{branch}.conv.{rest}"),
        ("psp_modules.{branch}.1.gn.{rest}", "pyramid.levels.{branch}.norm.{rest}"),
        ("bottleneck.conv.{rest}", "pyramid.bottleneck.conv.{rest}"),
        ("bottleneck.gn.{rest}", "pyramid.bottleneck.norm.{rest}"),
    )

    def __init__(self, channels: int, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.levels = nn.ModuleList(ConvNormAct(channels, channels) for _ in GRIDS)
        self.bottleneck = Conv3x3NormAct((1 + len(GRIDS)) * channels, channels)

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> PyramidPooling:
        """Make the module of a SegNeXt with this configuration."""
        return cls(config.decoder_channels, config.decoder_align_corners)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) to (N, D, H, W)."""
        size = x.shape[2:]
        levels = [
            F.interpolate(
                level(F.adaptive_avg_pool2d(x, grid)),
                size=size,
                mode="bilinear",
                align_corners=self.align_corners,
            )
            for grid, level in zip(GRIDS, self.levels, strict=True)
        ]
        return self.bottleneck(torch.cat([x, *levels], 1))
