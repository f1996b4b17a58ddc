"""Networks as other projects build them, in modules of their own: what `segnext.patch` and `segnext.deploy` meet.

They follow the structure of the public code (children, names, order of operations, what is drawn at random), since that
is what users have; tests compare them with the real packages where these are installed. Nothing here uses the package.
Sources: SegNeXt (Visual-Attention-Network/SegNeXt), VAN (Visual-Attention-Network/VAN-Classification), LSKNet
(zcablii/LSKNet), GeoCalib (cvg/GeoCalib).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracle import transcription
from oracle.transcription import EXPANSIONS, STRIPS

# "tiny" is for tests of what does not depend on the size.
SIZES = {**transcription.SIZES, "tiny": ((16, 32, 32, 64), (1, 1, 2, 1), 64, 8)}


class StripUnit(nn.Module):
    """SegNeXt's attention; its convolutions have the names of the official code."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        for i, k in enumerate(STRIPS):
            setattr(self, f"conv{i}_1", nn.Conv2d(dim, dim, (1, k), padding=(0, k // 2), groups=dim))
            setattr(self, f"conv{i}_2", nn.Conv2d(dim, dim, (k, 1), padding=(k // 2, 0), groups=dim))
        self.conv3 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = x.clone()
        root = self.conv0(x)
        branches = [
            self.get_submodule(f"conv{i}_2")(self.get_submodule(f"conv{i}_1")(root))
            for i in range(len(STRIPS))
        ]
        return self.conv3(sum(branches, root)) * u


class LargeKernelUnit(nn.Module):
    """VAN's attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv_spatial = nn.Conv2d(dim, dim, 7, padding=9, groups=dim, dilation=3)
        self.conv1 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x.clone() * self.conv1(self.conv_spatial(self.conv0(x)))


class SelectiveUnit(nn.Module):
    """LSKNet's attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv_spatial = nn.Conv2d(dim, dim, 7, padding=9, groups=dim, dilation=3)
        self.conv1 = nn.Conv2d(dim, dim // 2, 1)
        self.conv2 = nn.Conv2d(dim, dim // 2, 1)
        self.conv_squeeze = nn.Conv2d(2, 2, 7, padding=3)
        self.conv = nn.Conv2d(dim // 2, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv0(x)
        far = self.conv_spatial(near)
        near, far = self.conv1(near), self.conv2(far)
        both = torch.cat([near, far], dim=1)
        summary = torch.cat([both.mean(1, keepdim=True), both.max(1, keepdim=True)[0]], dim=1)
        shares = self.conv_squeeze(summary).sigmoid()
        chosen = near * shares[:, 0].unsqueeze(1) + far * shares[:, 1].unsqueeze(1)
        return x * self.conv(chosen)


class SpatialAttention(nn.Module):
    """The 1x1 convolutions around a unit."""

    def __init__(self, dim: int, unit: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = unit(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x.clone()
        return self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x)))) + shortcut


class DWConv(nn.Module):
    """A depthwise convolution in a module of its own."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class Mlp(nn.Module):
    """The convolutional feed-forward network."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = DWConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.dwconv(self.fc1(x))))))


class DropPath(nn.Module):
    """Stochastic depth, as timm draws it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = 1 - self.rate
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(kept).div_(kept)


class Block(nn.Module):
    """Attention and feed-forward network with layer scales, on (N, C, H, W)."""

    def __init__(
        self, dim: int, ratio: int, unit: Callable[[int], nn.Module], drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = SpatialAttention(dim, unit)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = Mlp(dim, dim * ratio, drop)
        self.layer_scale_1 = nn.Parameter(1e-2 * torch.ones(dim))
        self.layer_scale_2 = nn.Parameter(1e-2 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))


class TokenBlock(Block):
    """The same on tokens (N, H W, C), as SegNeXt's own code has it."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:  # type: ignore[override]
        n, tokens, c = x.shape
        x = super().forward(x.permute(0, 2, 1).view(n, c, height, width))
        return x.view(n, c, tokens).permute(0, 2, 1)


class Stem(nn.Module):
    """SegNeXt's stem, to tokens."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, dim // 2, 3, 2, 1),
            nn.BatchNorm2d(dim // 2),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, 2, 1),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        return x.flatten(2).transpose(1, 2), *x.shape[2:]


class PatchEmbed(nn.Module):
    """A convolution with stride and its BatchNorm, to tokens or (with ``maps``) to (N, C, H, W)."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int, maps: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm2d(dim)
        self.maps = maps

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.norm(self.proj(x))
        return (x if self.maps else x.flatten(2).transpose(1, 2)), *x.shape[2:]


class Encoder(nn.Module):
    """Four stages; with ``maps`` as VAN and LSKNet have them, else as SegNeXt's code."""

    def __init__(
        self,
        size: str,
        unit: Callable[[int], nn.Module],
        maps: bool,
        in_channels: int = 3,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels, self.depths, _, _ = SIZES[size]
        rates = torch.linspace(0, drop_path, sum(self.depths)).tolist()
        begins = [0, *accumulate(self.depths)]
        kind = Block if maps else TokenBlock
        for i, (dim, depth, ratio) in enumerate(zip(self.channels, self.depths, EXPANSIONS, strict=True)):
            before = self.channels[i - 1] if i else in_channels
            embed: nn.Module
            if i == 0:
                embed = PatchEmbed(before, dim, 7, 4, maps) if maps else Stem(before, dim)
            else:
                embed = PatchEmbed(before, dim, 3, 2, maps)
            setattr(self, f"patch_embed{i + 1}", embed)
            blocks = [kind(dim, ratio, unit, drop, rates[begins[i] + j]) for j in range(depth)]
            setattr(self, f"block{i + 1}", nn.ModuleList(blocks))
            setattr(self, f"norm{i + 1}", nn.LayerNorm(dim))
        self.maps = maps

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i in range(1, 5):
            x, height, width = self.get_submodule(f"patch_embed{i}")(x)
            for block in self.get_submodule(f"block{i}"):  # type: ignore[attr-defined]
                x = block(x) if self.maps else block(x, height, width)
            x = self.get_submodule(f"norm{i}")(x.flatten(2).transpose(1, 2) if self.maps else x)
            x = x.reshape(x.shape[0], height, width, -1).permute(0, 3, 1, 2).contiguous()
            features.append(x)
        return features


class ConvModule(nn.Module):
    """A convolution with GroupNorm (``gn``) and ReLU, as mmcv names them."""

    def __init__(self, in_channels: int, channels: int, norm: bool = True, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=not norm)
        if norm:
            self.gn = nn.GroupNorm(32, channels)
        if act:
            self.activate = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.gn(x) if hasattr(self, "gn") else x
        return self.activate(x) if hasattr(self, "activate") else x


class NMF2D(nn.Module):
    """The factorisation, with the attributes and methods of the official code."""

    def __init__(self, S: int = 1, R: int = 64, rand_init: bool = True, one_step: bool = False) -> None:
        super().__init__()
        self.S, self.R, self.inv_t = S, R, 1
        self.train_steps, self.eval_steps = 6, 7
        self.rand_init = rand_init
        self.one_step = one_step

    def _build_bases(self, B: int, S: int, D: int, R: int, device: Any = None) -> Tensor:
        return F.normalize(torch.rand((B * S, D, R)).to(device), dim=1)

    def local_step(self, x: Tensor, bases: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
        coef = self.compute_coef(x, bases, coef)
        bases = bases * torch.bmm(x, coef) / (bases.bmm(coef.transpose(1, 2).bmm(coef)) + 1e-6)
        return bases, coef

    def local_inference(self, x: Tensor, bases: Tensor) -> tuple[Tensor, Tensor]:
        coef = F.softmax(self.inv_t * torch.bmm(x.transpose(1, 2), bases), dim=-1)
        for _ in range(self.train_steps if self.training else self.eval_steps):
            bases, coef = self.local_step(x, bases, coef)
        return bases, coef

    def compute_coef(self, x: Tensor, bases: Tensor, coef: Tensor) -> Tensor:
        numerator = torch.bmm(x.transpose(1, 2), bases)
        return coef * numerator / (coef.bmm(bases.transpose(1, 2).bmm(bases)) + 1e-6)

    def forward(self, x: Tensor, return_bases: bool = False) -> Any:
        n, c, height, width = x.shape
        dim = c // self.S
        x = x.reshape(n * self.S, dim, height * width)
        if not self.rand_init and not hasattr(self, "bases"):
            self.register_buffer("bases", self._build_bases(1, self.S, dim, self.R, device=x.device))
        if self.rand_init:
            bases = self._build_bases(n, self.S, dim, self.R, device=x.device)
        else:
            bases = self.bases.repeat(n, 1, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.one_step):
            bases, coef = self.local_inference(x, bases)
        coef = self.compute_coef(x, bases, coef)
        out = torch.bmm(bases, coef.transpose(1, 2)).view(n, c, height, width)
        return (out, bases) if return_bases else out


class Hamburger(nn.Module):
    """The factorisation between its breads."""

    def __init__(self, dim: int, **ham: Any) -> None:
        super().__init__()
        self.ham_in = ConvModule(dim, dim, norm=False, act=False)
        self.ham = NMF2D(**ham)
        self.ham_out = ConvModule(dim, dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        enjoy = F.relu(self.ham_in(x), inplace=True)
        return F.relu(x + self.ham_out(self.ham(enjoy)), inplace=True)


class LightHamHead(nn.Module):
    """SegNeXt's decoder on the stages that ``in_index`` names; with ``classes=0`` to features."""

    def __init__(
        self,
        in_channels: Sequence[int],
        in_index: Sequence[int],
        dim: int,
        channels: int,
        classes: int,
        align_corners: bool = False,
        **ham: Any,
    ) -> None:
        super().__init__()
        self.in_index, self.align_corners = list(in_index), align_corners
        self.squeeze = ConvModule(sum(in_channels[i] for i in in_index), dim)
        self.hamburger = Hamburger(dim, **ham)
        self.align = ConvModule(dim, channels)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, classes, 1) if classes else nn.Identity()

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        chosen = [features[i] for i in self.in_index]
        size = chosen[0].shape[2:]
        resized = [
            F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners) for x in chosen
        ]
        x = self.align(self.hamburger(self.squeeze(torch.cat(resized, dim=1))))
        return self.conv_seg(self.dropout(x))


class Segmenter(nn.Module):
    """An encoder and a decoder head, with mmsegmentation's names; ``forward`` gives the head's logits."""

    def __init__(self, backbone: Encoder, decode_head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = decode_head

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_head(self.backbone(x))


class TwoHeads(nn.Module):
    """GeoCalib's shape: SegNeXt's encoder, and two decoders on all four stages, for two fields."""

    def __init__(self, size: str = "b", dim: int = 512) -> None:
        super().__init__()
        self.backbone = Encoder(size, StripUnit, maps=False)
        heads = (LightHamHead(self.backbone.channels, range(4), dim, 64, classes) for classes in (2, 1))
        self.up_head, self.latitude_head = heads

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        return F.normalize(self.up_head(features), dim=1), torch.tanh(self.latitude_head(features))


class Classifier(nn.Module):
    """An encoder whose last features are pooled and classified."""

    def __init__(self, backbone: Encoder, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def segnext(size: str = "t", classes: int = 150, drop_path: float = 0.0, **head: Any) -> Segmenter:
    """SegNeXt as the official code builds it; ``head`` goes to the decoder."""
    channels, _, dim, rank = SIZES[size]
    settings = {"R": rank, **head}
    return Segmenter(
        Encoder(size, StripUnit, maps=False, drop_path=drop_path),
        LightHamHead(channels, (1, 2, 3), dim, dim, classes, **settings),
    )


def van(size: str = "t", classes: int = 1000, **encoder: Any) -> Classifier:
    """VAN; sizes t, s, b, l are its B0 to B3."""
    return Classifier(Encoder(size, LargeKernelUnit, maps=True, **encoder), classes)


def lsknet(size: str = "t", **encoder: Any) -> Encoder:
    """An LSKNet's encoder with SegNeXt's channels and depths."""
    return Encoder(size, SelectiveUnit, maps=True, **encoder)
