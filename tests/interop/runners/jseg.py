"""Runs SegNeXt in Jittor. JSeg has no package, so the network is written here, in Jittor's layers and JSeg's names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import common

os.environ["use_mkl"] = "0"  # noqa: SIM112 - it would be fetched from the network
os.environ["nvcc_path"] = ""  # noqa: SIM112 - Jittor reads it so

import jittor as jt  # noqa: E402
import numpy as np  # noqa: E402
from jittor import nn  # noqa: E402

SIZES = {"t": ((32, 64, 160, 256), (3, 3, 5, 2), 256, 16), "s": ((64, 128, 320, 512), (2, 2, 4, 2), 256, 16)}
EXPANSIONS = (8, 8, 4, 4)
EVAL_STEPS = 7
CLASSES = 5


def depthwise(channels: int, height: int, width: int) -> nn.Conv:
    return nn.Conv(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels)


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        self.conv0 = depthwise(channels, 5, 5)
        for branch, length in enumerate((7, 11, 21)):
            setattr(self, f"conv{branch}_1", depthwise(channels, 1, length))
            setattr(self, f"conv{branch}_2", depthwise(channels, length, 1))
        self.conv3 = nn.Conv(channels, channels, 1)

    def execute(self, x: jt.Var) -> jt.Var:
        root = self.conv0(x)
        total = root
        for branch in range(3):
            total = total + getattr(self, f"conv{branch}_2")(getattr(self, f"conv{branch}_1")(root))
        return self.conv3(total) * x


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        self.proj_1, self.proj_2 = nn.Conv(channels, channels, 1), nn.Conv(channels, channels, 1)
        self.spatial_gating_unit = Gate(channels)

    def execute(self, x: jt.Var) -> jt.Var:
        return self.proj_2(self.spatial_gating_unit(nn.gelu(self.proj_1(x)))) + x


class Depthwise(nn.Module):
    def __init__(self, channels: int) -> None:
        self.dwconv = depthwise(channels, 3, 3)

    def execute(self, x: jt.Var) -> jt.Var:
        return self.dwconv(x)


class Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        self.fc1, self.fc2 = nn.Conv(channels, hidden, 1), nn.Conv(hidden, channels, 1)
        self.dwconv = Depthwise(hidden)

    def execute(self, x: jt.Var) -> jt.Var:
        return self.fc2(nn.gelu(self.dwconv(self.fc1(x))))


class Block(nn.Module):
    def __init__(self, channels: int, expansion: int) -> None:
        self.norm1, self.norm2 = nn.BatchNorm(channels), nn.BatchNorm(channels)
        self.attn, self.mlp = Attention(channels), Mlp(channels, expansion * channels)
        self.layer_scale_1, self.layer_scale_2 = jt.ones(channels), jt.ones(channels)

    def execute(self, x: jt.Var) -> jt.Var:
        x = x + self.layer_scale_1.reshape(1, -1, 1, 1) * self.attn(self.norm1(x))
        return x + self.layer_scale_2.reshape(1, -1, 1, 1) * self.mlp(self.norm2(x))


class Stem(nn.Module):
    def __init__(self, channels: int) -> None:
        half = channels // 2
        first, second = nn.Conv(3, half, 3, 2, 1), nn.Conv(half, channels, 3, 2, 1)
        self.proj = nn.Sequential(first, nn.BatchNorm(half), nn.GELU(), second, nn.BatchNorm(channels))

    def execute(self, x: jt.Var) -> jt.Var:
        return self.proj(x)


class Embedding(nn.Module):
    def __init__(self, given: int, channels: int) -> None:
        self.proj, self.norm = nn.Conv(given, channels, 3, 2, 1), nn.BatchNorm(channels)

    def execute(self, x: jt.Var) -> jt.Var:
        return self.norm(self.proj(x))


class Encoder(nn.Module):
    def __init__(self, channels: tuple[int, ...], depths: tuple[int, ...]) -> None:
        for stage, (width, depth, expansion) in enumerate(zip(channels, depths, EXPANSIONS, strict=True)):
            embedding = Stem(width) if stage == 0 else Embedding(channels[stage - 1], width)
            setattr(self, f"patch_embed{stage + 1}", embedding)
            setattr(self, f"block{stage + 1}", nn.ModuleList([Block(width, expansion) for _ in range(depth)]))
            setattr(self, f"norm{stage + 1}", nn.LayerNorm(width))

    def execute(self, x: jt.Var) -> list[jt.Var]:
        features = []
        for stage in range(1, 5):
            x = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                x = block(x)
            x = getattr(self, f"norm{stage}")(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            features.append(x)
        return features


class ConvModule(nn.Module):
    def __init__(self, given: int, channels: int, normalised: bool = True) -> None:
        self.conv = nn.Conv(given, channels, 1, bias=not normalised)
        if normalised:
            self.gn = nn.GroupNorm(32, channels)

    def execute(self, x: jt.Var) -> jt.Var:
        return self.gn(self.conv(x)) if hasattr(self, "gn") else self.conv(x)


class Hamburger(nn.Module):
    def __init__(self, channels: int, rank: int) -> None:
        self.ham_in, self.ham_out = ConvModule(channels, channels, False), ConvModule(channels, channels)
        self.pinned = common.bases(channels, rank)  # an array is no parameter

    def execute(self, x: jt.Var) -> jt.Var:
        n, c, h, w = x.shape
        y = nn.relu(self.ham_in(x)).reshape(n, c, h * w)
        bases = jt.array(np.repeat(self.pinned, n, 0))
        coef = nn.softmax(nn.bmm(y.transpose(1, 2), bases), dim=-1)
        for _ in range(EVAL_STEPS):
            coef = self.updated(y, bases, coef)
            gram = nn.bmm(bases, nn.bmm(coef.transpose(1, 2), coef))
            bases = bases * nn.bmm(y, coef) / (gram + 1e-6)
        coef = self.updated(y, bases, coef)
        return nn.relu(x + self.ham_out(nn.bmm(bases, coef.transpose(1, 2)).reshape(n, c, h, w)))

    def updated(self, y: jt.Var, bases: jt.Var, coef: jt.Var) -> jt.Var:
        gram = nn.bmm(coef, nn.bmm(bases.transpose(1, 2), bases))
        return coef * nn.bmm(y.transpose(1, 2), bases) / (gram + 1e-6)


class Head(nn.Module):
    def __init__(self, given: int, channels: int, rank: int, classes: int) -> None:
        self.squeeze, self.align = ConvModule(given, channels), ConvModule(channels, channels)
        self.hamburger = Hamburger(channels, rank)
        self.conv_seg = nn.Conv(channels, classes, 1)

    def execute(self, features: list[jt.Var]) -> jt.Var:
        size = tuple(features[0].shape[2:])
        resized = [features[0], *(nn.interpolate(f, size=size, mode="bilinear") for f in features[1:])]
        x = nn.relu(self.squeeze(jt.concat(resized, 1)))
        return self.conv_seg(nn.relu(self.align(self.hamburger(x))))


class SegNeXt(nn.Module):
    def __init__(self, size: str) -> None:
        channels, depths, width, rank = SIZES[size]
        self.backbone = Encoder(channels, depths)
        self.decode_head = Head(sum(channels[1:]), width, rank, CLASSES)

    def execute(self, x: jt.Var) -> jt.Var:
        return self.decode_head(self.backbone(x)[1:])


def outputs(model: SegNeXt) -> list[Any]:
    model.eval()
    results = []
    with jt.no_grad():
        for image in map(jt.array, common.images()):
            small = model(image)
            full = nn.interpolate(small, size=tuple(image.shape[2:]), mode="bilinear")
            results.append((small.numpy(), full.numpy()))
    return results


def write(folder: Path, task: dict[str, Any]) -> None:
    """Save as JSeg's Runner does: model, configuration, and what it needs to go on."""
    model = SegNeXt(task["size"])
    statistics = ("running_mean", "running_var")
    parameters = {key: value for key, value in model.state_dict().items() if not key.endswith(statistics)}
    drawn = common.values({key: tuple(value.shape) for key, value in parameters.items()})
    model.load_parameters(drawn)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm):
            module.momentum = 1.0
    model.train()
    model(jt.array(common.calibration())).sync()
    jt.sync_all(True)
    common.store(folder / "peer.npz", outputs(model))
    head = {"type": "LightHamHead", "num_classes": CLASSES, "align_corners": False}
    head["ham_kwargs"] = {"MD_R": SIZES[task["size"]][3]}
    meta = {
        "jseg_version": "1.0",
        "iter": 3,
        "config": {"model": {"type": "EncoderDecoder", "decode_head": head}},
    }
    content = {"meta": meta, "model": model.state_dict(), "scheduler": {}, "optimizer": {}}
    jt.save(content, str(folder / "peer.pkl"))


def read(folder: Path, task: dict[str, Any]) -> None:
    """Load the official names, which are JSeg's; Jittor reads torch checkpoints."""
    model = SegNeXt(task["size"])
    state_dict = jt.load(str(folder / "back.pth"))["state_dict"]
    lacking = model.state_dict().keys() - state_dict.keys()
    assert not lacking, f"missing {sorted(lacking)}"
    model.load_parameters({key: value for key, value in state_dict.items() if "num_batches" not in key})
    common.store(folder / "back.npz", outputs(model))


common.main(write, read)
