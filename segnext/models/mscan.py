"""MSCAN, the encoder of SegNeXt: four stages of MSCA blocks at strides 4, 8, 16, 32.

Paper: SegNeXt (arXiv 2209.08575), table 2; official code: Visual-Attention-Network/SegNeXt (Apache-2.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.batch_norm import BatchNorm
from segnext.models.changed import layers
from segnext.models.config import STAGES, MSCANConfig
from segnext.models.feature_info import FeatureInfo
from segnext.models.layers import ChannelNorm, Convolution, check_images
from segnext.models.loading import AnyDialectModule
from segnext.models.msca import Attention, Block
from segnext_kernels.memory_format import as_channels_last

torch.fx.wrap("check_images")


class Stem(nn.Module):
    """Two 3x3 convolutions with stride 2: image to stage 1's input at H/4."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, channels // 2, 3, stride=2, padding=1)
        self.norm1 = BatchNorm(channels // 2)
        self.conv2 = Convolution(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, C, ceil(H/4), ceil(W/4))."""
        x = self.conv1(as_channels_last(x))
        # The strides of a one-channel image fit both memory formats; the convolution then returns NCHW.
        x = as_channels_last(x)
        return self.norm2(self.conv2(F.gelu(self.norm1(x))))


class Downsample(nn.Module):
    """3x3 convolution with stride 2 between two stages."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(in_channels, channels, 3, stride=2, padding=1)
        self.norm = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, ceil(H/2), ceil(W/2))."""
        return self.norm(self.conv(x))


class Head(nn.Linear):
    """The linear layer of an image classifier, drawn as in the official code."""

    def reset_parameters(self) -> None:
        """Draw new parameters: weight from a normal distribution of width 0.02, cut at -2 and 2; bias 0."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


class MSCAN(AnyDialectModule):
    """The SegNeXt encoder, as an image classifier or (``features_only``) as a feature pyramid.

    ``model(x)`` on normalised images (N, C, H, W) of any size gives class logits (N, num_classes), pooled
    features (N, C4) with ``num_classes=0``, or with ``features_only`` the list of ``forward_features``.
    ``feature_info`` has ``channels()``, ``reduction()`` and ``module_name()`` of the features, as timm does. Stages
    after the last of ``out_indices`` are not built. ``load_state_dict`` takes every known checkpoint dialect; of whole
    encoders it leaves out the stages and the head that are not built.
    """

    def __init__(self, config: MSCANConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}
        channels = config.channels
        self.stem = Stem(config.in_channels, channels[0])
        built = config.out_indices[-1] + 1  # later stages would be dead weight
        self.downsamples = nn.ModuleList(Downsample(channels[i], channels[i + 1]) for i in range(built - 1))
        self.stages = nn.ModuleList(islice(_stages(config), built))
        self.norms = nn.ModuleList(ChannelNorm(width) for width in channels[:built])
        self.feature_info = FeatureInfo(channels, config.out_indices)
        self.head: nn.Linear | None = None
        if config.num_classes and not config.features_only:
            self.head = Head(channels[-1], config.num_classes)
        self.layers_built = layers(self)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Compute the stages' normalised features, channels_last.

        Args:
            x: (N, in_channels, H, W) normalised images.

        Returns:
            One (N, C_i, ceil(H/s_i), ceil(W/s_i)) per stage of ``out_indices``, s = 4, 8, 16, 32.
        """
        check_images(self.config.architecture, x, self.stem.conv1.weight)
        wanted = self.config.out_indices
        features = []
        for i in range(len(self.stages)):
            x = self.stem(x) if i == 0 else self.downsamples[i - 1](x)
            x = self.norms[i](self.stages[i](x))
            if i in wanted:
                features.append(x)
        return features

    def is_left_out(self, key: str) -> bool:
        """Whether a tensor's name is of a stage that is not built, or of a head with ``features_only``."""
        if key.startswith("head."):
            return self.config.features_only
        match = re.match(r"(downsamples|stages|norms)\.(\d+)\.", key)
        if match is None:
            return False
        stage = int(match[2]) + (match[1] == "downsamples")  # the first is in front of the second stage
        return len(self.stages) <= stage < STAGES

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Class logits (N, num_classes), pooled features (N, C4), or a list of features; see the class."""
        features = self.forward_features(x)
        if self.config.features_only:
            return features
        pooled = features[-1].mean((2, 3))
        return pooled if self.head is None else self.head(pooled)


def _stages(config: MSCANConfig) -> Iterator[nn.Sequential]:
    """Yield the blocks of each stage."""
    total = sum(config.depths)
    # The rates rise linearly over all blocks, from 0 for the first to the full rate for the last.
    rates = iter(config.drop_path * index / max(total - 1, 1) for index in range(total))
    for channels, expansion, depth in zip(config.channels, config.expansions, config.depths, strict=True):
        yield nn.Sequential(
            *(
                Block(
                    channels,
                    expansion,
                    next(rates),
                    config.dropout,
                    config.recompute,
                    Attention(
                        channels, config.strips, config.root, config.mix, config.gate, config.attention
                    ),
                )
                for _ in range(depth)
            )
        )
