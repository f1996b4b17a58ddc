"""The official model as modules, with its names and attributes, written without the package's tables and layers.

`oracle.transcription` has the same arithmetic as functions; tests of whatever takes a module need modules.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracle.transcription import SIZES, STRIPS

NARROW = ((8, 16, 24, 32), (1, 1, 1, 1), 32, 4)
EXPANSIONS = (8, 8, 4, 4)


def depthwise(channels: int, height: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels)


class DWConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = depthwise(channels, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class Mlp(nn.Module):
    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, expansion * channels, 1)
        self.dwconv = DWConv(expansion * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(expansion * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class AttentionModule(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = depthwise(channels, 5, 5)
        for branch, length in enumerate(STRIPS):
            self.add_module(f"conv{branch}_1", depthwise(channels, 1, length))
            self.add_module(f"conv{branch}_2", depthwise(channels, length, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        root = self.conv0(x)
        total = root
        for branch in range(len(STRIPS)):
            row, column = (self.get_submodule(f"conv{branch}_{half}") for half in (1, 2))
            total = total + column(row(root))
        return self.conv3(total) * x


class SpatialAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = AttentionModule(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x)))) + x


class Block(nn.Module):
    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.attn, self.mlp = SpatialAttention(channels), Mlp(channels, expansion)
        self.layer_scale_1 = nn.Parameter(0.01 * torch.ones(channels))
        self.layer_scale_2 = nn.Parameter(0.01 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1[:, None, None] * self.attn(self.norm1(x))
        return x + self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x))


class StemConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.proj = nn.Sequential(
            nn.Conv2d(3, half, 3, 2, 1),
            nn.BatchNorm2d(half),
            nn.GELU(),
            nn.Conv2d(half, channels, 3, 2, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class OverlapPatchEmbed(nn.Module):
    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(before, channels, 3, 2, 1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class MSCAN(nn.Module):
    def __init__(self, channels: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        for i, (width, depth, expansion) in enumerate(
            zip(channels, depths, EXPANSIONS, strict=True), start=1
        ):
            embed = StemConv(width) if i == 1 else OverlapPatchEmbed(channels[i - 2], width)
            self.add_module(f"patch_embed{i}", embed)
            self.add_module(f"block{i}", nn.ModuleList(Block(width, expansion) for _ in range(depth)))
            self.add_module(f"norm{i}", nn.LayerNorm(width))

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for i in range(1, 5):
            x = self.get_submodule(f"patch_embed{i}")(x)
            for block in self.get_submodule(f"block{i}").children():
                x = block(x)
            x = self.get_submodule(f"norm{i}")(x.movedim(1, -1)).movedim(-1, 1).contiguous()
            outputs.append(x)
        return outputs


class ConvModule(nn.Module):
    def __init__(self, before: int, channels: int, norm: bool, act: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, channels, 1, bias=not norm)
        self.gn = nn.GroupNorm(32, channels) if norm else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x if self.gn is None else self.gn(x)
        return F.relu(x) if self.act else x


class NMF2D(nn.Module):
    """Draws new bases in every call, unless ``rand_init`` is False; small letters are OTX's."""

    def __init__(self, rank: int, steps: int, rand_init: bool) -> None:
        super().__init__()
        self.S, self.R = 1, rank
        self.train_steps, self.eval_steps = 6, steps
        self.rand_init = rand_init
        self.inv_t = 1.0

    def _build_bases(self, batch: int, s: int, channels: int, rank: int) -> Tensor:
        return F.normalize(torch.rand(batch * s, channels, rank), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        n, channels = x.shape[:2]
        pixels = x.flatten(2)
        if not self.rand_init and not hasattr(self, "bases"):
            self.register_buffer("bases", self._build_bases(1, 1, channels, self.R))
        bases: Any = self._build_bases(n, 1, channels, self.R) if self.rand_init else self.bases
        bases = bases.expand(n, -1, -1)
        coef = torch.softmax(self.inv_t * (pixels.mT @ bases), dim=-1)
        for _ in range(self.train_steps if self.training else self.eval_steps):
            coef = coef * (pixels.mT @ bases) / (coef @ (bases.mT @ bases) + 1e-6)
            bases = bases * (pixels @ coef) / (bases @ (coef.mT @ coef) + 1e-6)
        coef = coef * (pixels.mT @ bases) / (coef @ (bases.mT @ bases) + 1e-6)
        return (bases @ coef.mT).view(x.shape)


class Hamburger(nn.Module):
    def __init__(self, channels: int, ham: nn.Module) -> None:
        super().__init__()
        self.ham_in = ConvModule(channels, channels, norm=False, act=False)
        self.ham = ham
        self.ham_out = ConvModule(channels, channels, norm=True, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.ham_out(self.ham(F.relu(self.ham_in(x)))))


class LightHamHead(nn.Module):
    def __init__(
        self, widths: tuple[int, ...], channels: int, classes: int, ham: nn.Module, align_corners: bool
    ) -> None:
        super().__init__()
        self.in_index, self.channels, self.ham_channels = [1, 2, 3], channels, channels
        self.num_classes, self.align_corners = classes, align_corners
        self.squeeze = ConvModule(sum(widths), channels, norm=True, act=True)
        self.hamburger = Hamburger(channels, ham)
        self.align = ConvModule(channels, channels, norm=True, act=True)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        levels = [features[index] for index in self.in_index]
        size = levels[0].shape[2:]
        resized = [F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners) for x in levels]
        x = self.hamburger(self.squeeze(torch.cat(resized, 1)))
        return self.conv_seg(self.dropout(self.align(x)))


class EncoderDecoder(nn.Module):
    """``encode_decode`` gives logits at the images' size, as in mmsegmentation; ``forward`` is for its own data."""

    def __init__(
        self,
        size: str = "narrow",
        classes: int = 3,
        rank: int | None = None,
        steps: int = 7,
        align_corners: bool = False,
        rand_init: bool = True,
    ) -> None:
        super().__init__()
        channels, depths, width, usual_rank = NARROW if size == "narrow" else SIZES[size]
        self.backbone = MSCAN(channels, depths)
        ham = NMF2D(rank or usual_rank, steps, rand_init)
        self.decode_head = LightHamHead(channels[1:], width, classes, ham, align_corners)
        self.align_corners = align_corners

    def encode_decode(self, images: Tensor, metas: list[dict[str, Any]]) -> Tensor:
        assert len(metas) == len(images)
        low = self.decode_head(self.backbone(images))
        return F.interpolate(low, images.shape[2:], mode="bilinear", align_corners=self.align_corners)


class OfOtx(nn.Module):
    """As OpenVINO Training Extensions call a model: it resizes logits with aligned corners, which no attribute says."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.backbone, self.decode_head = model.backbone, model.decode_head

    def forward(self, images: Tensor) -> Tensor:
        low = self.decode_head(self.backbone(images))
        return F.interpolate(low, images.shape[2:], mode="bilinear", align_corners=True)


def like_trained(model: nn.Module, seed: int = 0) -> Any:
    """Give a model values as training leaves them: unit gain, scales that count, statistics of real features."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "layer_scale" in name:
                parameter.copy_(0.3 + 0.1 * noise)
            elif parameter.ndim == 4:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise + (1 if name.endswith("weight") else 0))
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for momentum in (1.0, 0.5, 0.3):
            for norm in norms:
                norm.momentum = momentum
            model.train().get_submodule("backbone")(torch.randn(2, 3, 64, 96, generator=generator))
    return model.eval()
