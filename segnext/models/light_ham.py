"""LightHam, the published decoder of SegNeXt: features of stages 2-4 at H/8, a Hamburger, a classifier.

Paper: SegNeXt (arXiv 2209.08575), figure 3 (c).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.config import EVAL_STEPS, SegNeXtConfig
from segnext.models.decoder import Decoder
from segnext.models.ham import Hamburger
from segnext.models.layers import Classifier, ConvNormAct


class LightHam(Decoder):
    """Decoder over several features, which are resized to the first one's size and concatenated.

    Args:
        in_channels: channels of the features.
        channels: decoder width, a multiple of 32.
        logits: channels of the logits.
        rank, grad, random_eval_bases, eval_steps: see :class:`segnext.models.ham.Hamburger`.
        dropout: rate of the channel dropout before the classifier.
        align_corners: how features are resized.
    """

    stages = (1, 2, 3)
    official_names = (
        ("squeeze.conv.{rest}", "squeeze.conv.{rest}"),
        ("squeeze.gn.{rest}", "squeeze.norm.{rest}"),
        ("hamburger.ham_in.conv.{rest}", "hamburger.proj_in.{rest}"),
        ("hamburger.ham_out.conv.{rest}", "hamburger.proj_out.{rest}"),
        ("hamburger.ham_out.gn.{rest}", "hamburger.norm.{rest}"),
        ("hamburger.ham.bases", "hamburger.bases"),
        ("align.conv.{rest}", "align.conv.{rest}"),
        ("align.gn.{rest}", "align.norm.{rest}"),
        ("conv_seg.{rest}", "classifier.{rest}"),
    )
    sizes = {"decoder_channels": ("squeeze.conv.weight", 0)}

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        logits: int,
        rank: int,
        grad: str = "unrolled",
        random_eval_bases: bool = False,
        dropout: float = 0.1,
        eval_steps: int = EVAL_STEPS,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.squeeze = ConvNormAct(sum(in_channels), channels)
        self.hamburger = Hamburger(channels, rank, grad, random_eval_bases, eval_steps)
        self.align = ConvNormAct(channels, channels)
        self.align_corners = align_corners
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = Classifier(channels, logits)

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> LightHam:
        """Make the decoder of a SegNeXt with this configuration."""
        return cls(
            [config.channels[stage] for stage in cls.stages],
            config.decoder_channels,
            config.logits,
            config.rank,
            config.nmf_grad,
            config.random_eval_bases,
            config.decoder_dropout,
            config.eval_steps,
            config.decoder_align_corners,
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features [(N, C_i, H_i, W_i), ...] to logits (N, K, H_0, W_0)."""
        size = features[0].shape[2:]
        same_size = [features[0]] + [
            F.interpolate(feature, size=size, mode="bilinear", align_corners=self.align_corners)
            for feature in features[1:]
        ]
        x = self.align(self.hamburger(self.squeeze(torch.cat(same_size, 1))))
        return self.classifier(self.dropout(x))
