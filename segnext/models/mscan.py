"""MSCAN, the encoder of SegNeXt: four stages of MSCA blocks at strides 4, 8, 16, 32.

Paper: SegNeXt (arXiv 2209.08575), table 2; official code: Visual-Attention-Network/SegNeXt (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.loading import AnyLayoutModule
from segnext.models.msca import Block, initialise_convolutions

STRIDES = (4, 8, 16, 32)
STAGES = len(STRIDES)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What defines the encoder of every architecture.

    Attributes:
        architecture: the registry's name, for example ``"mscan_t"``.
        channels: width of the four stages.
        depths: blocks in the four stages.
        expansions: FFN expansion in the four stages.
        drop_path: stochastic depth rate of the last block; the rates of the others rise linearly from 0.
        dropout: dropout rate inside the FFNs.
        in_channels: channels of the image.
        recompute: trade time for memory in training, see :class:`segnext.models.msca.FFN`.
    """

    architecture: str
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    expansions: tuple[int, ...] = (8, 8, 4, 4)
    drop_path: float = 0.1
    dropout: float = 0.0
    in_channels: int = 3
    recompute: bool = False

    def __post_init__(self) -> None:
        kinds = {"int": int, "float": (int, float), "bool": bool, "str": str}
        for field in fields(self):
            value = getattr(self, field.name)
            if str(field.type) in kinds and not isinstance(value, kinds[str(field.type)]):  # type: ignore[arg-type]
                raise TypeError(f"{self.architecture}: {field.name} must be {field.type}, got {value!r}")
        for name in ("channels", "depths", "expansions"):
            value = tuple(getattr(self, name))  # JSON gives lists
            object.__setattr__(self, name, value)
            expect(self, name, len(value) == STAGES and min(value) >= 1, "four positive integers")
        expect(
            self,
            "channels",
            self.channels[0] % 2 == 0,
            "even in the first stage, whose stem begins with half",
        )
        expect(self, "drop_path", 0 <= self.drop_path < 1, "in [0, 1)")
        expect(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
        expect(self, "in_channels", self.in_channels >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True)
class MSCANConfig(EncoderConfig):
    """Everything that defines an MSCAN; ``dataclasses.asdict`` of it is JSON-able and rebuilds it.

    Attributes:
        num_classes: classes of the head; 0 for none (``model(x)`` then gives pooled features).
        features_only: no head; ``model(x)`` gives the features of ``out_indices``.
        out_indices: stages (0-3) whose features are given.
    """

    num_classes: int = 1000
    features_only: bool = False
    out_indices: tuple[int, ...] = (0, 1, 2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        indices = tuple(self.out_indices)
        object.__setattr__(self, "out_indices", indices)
        rising = indices == tuple(sorted(set(indices) & set(range(STAGES))))
        expect(self, "out_indices", bool(indices) and rising, "stages from 0 to 3 in rising order")
        complete = self.features_only or indices[-1] == STAGES - 1
        expect(self, "out_indices", complete, "given with features_only=True; a classifier needs stage 3")
        expect(self, "num_classes", self.num_classes >= 0, "at least 0")


def expect(config: EncoderConfig, name: str, valid: bool, expected: str) -> None:
    """Raise a ValueError in one line unless the field ``name`` of ``config`` is ``valid``."""
    if not valid:
        raise ValueError(f"{config.architecture}: {name} must be {expected}, got {getattr(config, name)}")


def check_images(model: str, images: Tensor, weight: Tensor) -> None:
    """Raise one clear line unless ``images`` fit a network whose first convolution has ``weight``.

    Raises:
        TypeError: not a tensor, or not of the weights' floating dtype (any under autocast).
        ValueError: not (N, C, H, W) with the right C and a pixel at least, or on another device.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"{model}: images must be a tensor of normalised pixels, got {type(images).__name__}; "
            "segnext.Predictor takes files and arrays"
        )
    channels = weight.shape[1]
    if images.ndim != 4 or images.shape[1] != channels or min(images.shape[2:]) < 1:
        remedy = (
            "add a batch axis with images[None]" if images.ndim == 3 else "in_channels= is set at creation"
        )
        raise ValueError(
            f"{model}: images must be (N, {channels}, H, W), got {tuple(images.shape)}; {remedy}"
        )
    if images.device != weight.device:
        raise ValueError(
            f"{model}: images must be on the model's device {weight.device}, got {images.device}; "
            f"move them with images.to({str(weight.device)!r})"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"{model}: images must be normalised floating-point pixels, got {images.dtype}; "
            "see segnext.data.preprocessing.normalise, or use segnext.Predictor"
        )
    if images.dtype != weight.dtype and not torch.is_autocast_enabled(images.device.type):
        raise TypeError(
            f"{model}: images must be {weight.dtype} as the weights, got {images.dtype}; "
            "convert one of them, or run under torch.autocast"
        )


class Stem(nn.Module):
    """Two 3x3 convolutions with stride 2: image to stage 1's input at H/4."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, C, ceil(H/4), ceil(W/4))."""
        x = self.conv1(x.contiguous(memory_format=torch.channels_last))
        # The strides of a one-channel image fit both layouts, and a convolution then answers in NCHW.
        x = x.contiguous(memory_format=torch.channels_last)
        return self.norm2(self.conv2(F.gelu(self.norm1(x))))


class Downsample(nn.Module):
    """3x3 convolution with stride 2 between two stages."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, ceil(H/2), ceil(W/2))."""
        return self.norm(self.conv(x))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over C of (N, C, H, W); in channels_last the permutations are views."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MSCAN(AnyLayoutModule):
    """The SegNeXt encoder, as an image classifier or (``features_only``) as a feature pyramid.

    ``model(x)`` on normalised images (N, C, H, W) of any size gives class logits (N, num_classes), pooled
    features (N, C4) with ``num_classes=0``, or with ``features_only`` the list of ``forward_features``.
    ``feature_info`` tells ``num_chs``, ``reduction`` and ``module`` of each feature, as timm does.
    ``load_state_dict`` takes every known checkpoint layout.
    """

    def __init__(self, config: MSCANConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}
        channels, total = config.channels, sum(config.depths)
        # Linear over all blocks, 0 for the first and the full rate for the last.
        rates = iter(config.drop_path * index / max(total - 1, 1) for index in range(total))
        self.stem = Stem(config.in_channels, channels[0])
        self.downsamples = nn.ModuleList(Downsample(channels[i], channels[i + 1]) for i in range(STAGES - 1))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(channels[i], config.expansions[i], next(rates), config.dropout, config.recompute)
                    for _ in range(config.depths[i])
                )
            )
            for i in range(STAGES)
        )
        self.norms = nn.ModuleList(ChannelNorm(width) for width in channels)
        self.feature_info = [
            {"num_chs": channels[i], "reduction": STRIDES[i], "module": f"norms.{i}"}
            for i in config.out_indices
        ]
        initialise_convolutions(self)
        self.head: nn.Linear | None = None
        if config.num_classes and not config.features_only:
            self.head = nn.Linear(channels[-1], config.num_classes)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The stages' normalised features, channels_last.

        Args:
            x: (N, in_channels, H, W) normalised images.

        Returns:
            One (N, C_i, ceil(H/s_i), ceil(W/s_i)) for each stage of ``out_indices``, s = 4, 8, 16, 32. Stages
            after the last one asked for are not computed.
        """
        check_images(self.config.architecture, x, self.stem.conv1.weight)
        wanted = self.config.out_indices
        features = []
        for i in range(wanted[-1] + 1):
            x = self.stem(x) if i == 0 else self.downsamples[i - 1](x)
            x = self.norms[i](self.stages[i](x))
            if i in wanted:
                features.append(x)
        return features

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Class logits (N, num_classes), pooled features (N, C4), or a list of features; see the class."""
        features = self.forward_features(x)
        if self.config.features_only:
            return features
        pooled = features[-1].mean((2, 3))
        return pooled if self.head is None else self.head(pooled)
