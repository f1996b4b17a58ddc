"""MLP, the decoder of SegFormer: each stage's features in one width, resized, concatenated and mixed.

Papers: SegFormer (arXiv 2105.15203), section 3.2, with mmsegmentation's normalisations; SegNeXt (arXiv 2209.08575),
figure 3 (a).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models import config as configuration
from segnext.models.batch_norm import BatchNorm
from segnext.models.config import SegNeXtConfig
from segnext.models.decoder import Decoder
from segnext.models.layers import Classifier, Pointwise
from segnext.models.resizing import resized


class PointwiseNormAct(nn.Module):
    """1x1 convolution without bias, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = Pointwise(in_channels, channels, bias=False)
        self.norm = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H, W)."""
        return F.relu(self.norm(self.conv(x)))


class MLP(Decoder):
    """Decoder of 1x1 convolutions alone.

    Args:
        in_channels: channels of the features.
        channels: decoder width.
        logits: channels of the logits.
        dropout: rate of the channel dropout before the classifier.
        align_corners: how features are resized.
    """

    stages = configuration.DECODERS["mlp"]
    official_names = (
        ("convs.{level}.conv.{rest}", "levels.{level}.conv.{rest}"),
        ("convs.{level}.bn.{rest}", "levels.{level}.norm.{rest}"),
        ("fusion_conv.conv.{rest}", "fusion.conv.{rest}"),
        ("fusion_conv.bn.{rest}", "fusion.norm.{rest}"),
        ("conv_seg.{rest}", "classifier.{rest}"),
    )
    sizes = {"decoder_channels": ("fusion.conv.weight", 0)}

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        logits: int,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(PointwiseNormAct(width, channels) for width in in_channels)
        self.fusion = PointwiseNormAct(len(in_channels) * channels, channels)
        self.align_corners = align_corners
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = Classifier(channels, logits)

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> MLP:
        """Make the decoder of a SegNeXt with this configuration."""
        stages = cls.stages_of(config)
        decoder = cls(
            [config.channels[stage] for stage in stages],
            config.decoder_channels,
            config.logits,
            config.decoder_dropout,
            config.decoder_align_corners,
        )
        decoder.stages = stages
        return decoder

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features [(N, C_i, H_i, W_i), ...] to logits (N, K, H_0, W_0)."""
        levels = [level(feature) for level, feature in zip(self.levels, features, strict=True)]
        x = self.fusion(torch.cat(resized(levels, self.align_corners), 1))
        return self.classifier(self.dropout(x))
