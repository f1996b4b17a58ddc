"""LightHam, the published decoder of SegNeXt: features of stages 2-4 at H/8, a Hamburger, a classifier.

Paper: SegNeXt (arXiv 2209.08575), figure 3 (c); figure 3 (b) is the same on one stage, :class:`OneStage`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from segnext.models import config as configuration
from segnext.models.config import SegNeXtConfig
from segnext.models.contexts.context import Context
from segnext.models.contexts.table import CONTEXTS
from segnext.models.decoder import Decoder
from segnext.models.layers import Classifier, ConvNormAct
from segnext.models.resizing import resized


class LightHam(Decoder):
    """Decoder over several features, which are resized to the first one's size and concatenated.

    Args:
        in_channels: channels of the features.
        channels: decoder width, a multiple of 32.
        logits: channels of the logits.
        make_context: makes the global context of (N, channels, H, W); None for none. It is held by the attribute that
            its class names, for example ``hamburger``.
        dropout: rate of the channel dropout before the classifier.
        align_corners: how features are resized.
    """

    stages = configuration.DECODERS["ham"]
    official_names = (
        ("squeeze.conv.{rest}", "squeeze.conv.{rest}"),
        ("squeeze.gn.{rest}", "squeeze.norm.{rest}"),
        *(pair for context in CONTEXTS.values() for pair in context.official_names),
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
        make_context: Callable[[], Context] | None,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.squeeze = ConvNormAct(sum(in_channels), channels)
        self.context_name: str | None = None
        # It is made between squeeze and align, so that a seed gives the weights that it always gave.
        if make_context is not None:
            context = make_context()
            self.context_name = context.attribute
            self.add_module(context.attribute, context)
        self.align = ConvNormAct(channels, channels)
        self.align_corners = align_corners
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = Classifier(channels, logits)

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> LightHam:
        """Make the decoder of a SegNeXt with this configuration."""
        stages = cls.stages_of(config)
        decoder = cls(
            [config.channels[stage] for stage in stages],
            config.decoder_channels,
            config.logits,
            None if config.context is None else partial(CONTEXTS[config.context].from_config, config),
            config.decoder_dropout,
            config.decoder_align_corners,
        )
        decoder.stages = stages
        return decoder

    @property
    def context(self) -> nn.Module | None:
        """The module for global context; what was put into its place counts, such as an adapter around it."""
        return None if self.context_name is None else cast(nn.Module, getattr(self, self.context_name))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features [(N, C_i, H_i, W_i), ...] to logits (N, K, H_0, W_0)."""
        x = self.squeeze(torch.cat(resized(features, self.align_corners), 1))
        if self.context_name is not None:
            x = getattr(self, self.context_name)(x)
        return self.classifier(self.dropout(self.align(x)))


class OneStage(LightHam):
    """LightHam on one stage alone, as heads of CNNs are: the last one, unless the configuration says otherwise."""

    stages = configuration.DECODERS["cnn"]
