"""Transcribes SegNeXt's official arithmetic into plain PyTorch, straight on a state dict with the official names.

This is the oracle of the model's tests and the peer that our models are timed against. It has functions only and uses
nothing from the package, so that an error in the package's modules, ops or name tables shows as a difference. All
features keep the memory format of the images.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

StateDict = dict[str, Tensor]

# size -> (channels, depths, decoder width, NMF rank)
SIZES = {
    "t": ((32, 64, 160, 256), (3, 3, 5, 2), 256, 16),
    "s": ((64, 128, 320, 512), (2, 2, 4, 2), 256, 16),
    "b": ((64, 128, 320, 512), (3, 3, 12, 3), 512, 64),
    "l": ((64, 128, 320, 512), (3, 5, 27, 3), 1024, 64),
}
EXPANSIONS = (8, 8, 4, 4)
STRIPS = (7, 11, 21)
BN_MOMENTUM = 0.1
EVAL_STEPS, TRAIN_STEPS = 7, 6


def shapes(size: str, num_classes: int, width: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return the official checkpoint's names and shapes."""
    channels, depths, default_width, _ = SIZES[size]
    width = width or default_width
    result: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, in_per_group: int, kh: int = 1, kw: int = 1, bias: bool = True) -> None:
        result[f"{name}.weight"] = (out, in_per_group, kh, kw)
        if bias:
            result[f"{name}.bias"] = (out,)

    def norm(name: str, width: int, batch: bool) -> None:
        result[f"{name}.weight"] = result[f"{name}.bias"] = (width,)
        if batch:
            result[f"{name}.running_mean"] = result[f"{name}.running_var"] = (width,)
            result[f"{name}.num_batches_tracked"] = ()

    for i, (c, depth, expansion) in enumerate(zip(channels, depths, EXPANSIONS, strict=True), start=1):
        embed = f"backbone.patch_embed{i}"
        if i == 1:
            conv(f"{embed}.proj.0", c // 2, 3, 3, 3)
            norm(f"{embed}.proj.1", c // 2, batch=True)
            conv(f"{embed}.proj.3", c, c // 2, 3, 3)
            norm(f"{embed}.proj.4", c, batch=True)
        else:
            conv(f"{embed}.proj", c, channels[i - 2], 3, 3)
            norm(f"{embed}.norm", c, batch=True)
        for j in range(depth):
            block = f"backbone.block{i}.{j}"
            result[f"{block}.layer_scale_1"] = result[f"{block}.layer_scale_2"] = (c,)
            norm(f"{block}.norm1", c, batch=True)
            norm(f"{block}.norm2", c, batch=True)
            conv(f"{block}.attn.proj_1", c, c)
            conv(f"{block}.attn.proj_2", c, c)
            unit = f"{block}.attn.spatial_gating_unit"
            conv(f"{unit}.conv0", c, 1, 5, 5)
            for branch, kernel in enumerate(STRIPS):
                conv(f"{unit}.conv{branch}_1", c, 1, 1, kernel)
                conv(f"{unit}.conv{branch}_2", c, 1, kernel, 1)
            conv(f"{unit}.conv3", c, c)
            conv(f"{block}.mlp.fc1", expansion * c, c)
            conv(f"{block}.mlp.dwconv.dwconv", expansion * c, 1, 3, 3)
            conv(f"{block}.mlp.fc2", c, expansion * c)
        norm(f"backbone.norm{i}", c, batch=False)
    conv("decode_head.squeeze.conv", width, sum(channels[1:]), bias=False)
    norm("decode_head.squeeze.gn", width, batch=False)
    conv("decode_head.hamburger.ham_in.conv", width, width)
    conv("decode_head.hamburger.ham_out.conv", width, width, bias=False)
    norm("decode_head.hamburger.ham_out.gn", width, batch=False)
    conv("decode_head.align.conv", width, width, bias=False)
    norm("decode_head.align.gn", width, batch=False)
    conv("decode_head.conv_seg", num_classes, width)
    return result


def trained_like(size: str, num_classes: int, seed: int = 0, width: int | None = None) -> StateDict:
    """Make a state dict like a trained one: weights have unit gain, forward passes measure the BN statistics.

    Blocks multiply features with features, so with random statistics the scales square in every block and overflow.
    """
    generator = torch.Generator().manual_seed(seed)
    sd: StateDict = {}
    for name, shape in shapes(size, num_classes, width).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            sd[name] = torch.tensor(0)
        elif len(shape) == 4:
            sd[name] = noise / math.sqrt(shape[1] * shape[2] * shape[3])
        elif "layer_scale" in name:
            sd[name] = 0.3 + 0.1 * noise
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            sd[name] = (1 + 0.2 * noise).abs()
        else:
            sd[name] = 0.2 * noise
    for momentum in (1.0, 0.5, 0.3):
        features(sd, torch.randn(2, 3, 64, 96, generator=generator), momentum)
    return sd


def conv(sd: StateDict, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolve and keep the size (with stride 1); the weight's shape decides whether this is depthwise."""
    weight = sd[f"{name}.weight"]
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, sd.get(f"{name}.bias"), stride, padding, groups=groups)


def batch_norm(sd: StateDict, name: str, x: Tensor, momentum: float | None) -> Tensor:
    """Normalise as in evaluation if momentum is None, else as in training, which updates the statistics in ``sd``."""
    mean, var = sd[f"{name}.running_mean"], sd[f"{name}.running_var"]
    weight, bias = sd[f"{name}.weight"], sd[f"{name}.bias"]
    return F.batch_norm(x, mean, var, weight, bias, momentum is not None, momentum or 0.0, 1e-5)


def attention(sd: StateDict, name: str, z: Tensor) -> Tensor:
    """Apply MSCA with its 1x1 convolutions and its inner shortcut."""
    u = F.gelu(conv(sd, f"{name}.proj_1", z))
    unit = f"{name}.spatial_gating_unit"
    a = conv(sd, f"{unit}.conv0", u)
    mixed = a
    for branch in range(len(STRIPS)):
        mixed = mixed + conv(sd, f"{unit}.conv{branch}_2", conv(sd, f"{unit}.conv{branch}_1", a))
    return conv(sd, f"{name}.proj_2", conv(sd, f"{unit}.conv3", mixed) * u) + z


def ffn(sd: StateDict, name: str, z: Tensor) -> Tensor:
    """Apply the feed-forward half without dropout."""
    hidden = conv(sd, f"{name}.dwconv.dwconv", conv(sd, f"{name}.fc1", z))
    return conv(sd, f"{name}.fc2", F.gelu(hidden))


def features(sd: StateDict, images: Tensor, momentum: float | None = None) -> list[Tensor]:
    """Return the four stages' outputs in the images' memory format; ``momentum`` is for batch norm in training."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x, outputs = images, []
    for i in range(1, 5):
        embed = f"backbone.patch_embed{i}"
        if i == 1:
            x = batch_norm(sd, f"{embed}.proj.1", conv(sd, f"{embed}.proj.0", x, stride=2), momentum)
            x = batch_norm(sd, f"{embed}.proj.4", conv(sd, f"{embed}.proj.3", F.gelu(x), stride=2), momentum)
        else:
            x = batch_norm(sd, f"{embed}.norm", conv(sd, f"{embed}.proj", x, stride=2), momentum)
        j = 0
        while (block := f"backbone.block{i}.{j}") + ".layer_scale_1" in sd:
            scale1, scale2 = (sd[f"{block}.layer_scale_{half}"].view(-1, 1, 1) for half in (1, 2))
            x = x + scale1 * attention(sd, f"{block}.attn", batch_norm(sd, f"{block}.norm1", x, momentum))
            x = x + scale2 * ffn(sd, f"{block}.mlp", batch_norm(sd, f"{block}.norm2", x, momentum))
            j += 1
        weight, bias = sd[f"backbone.norm{i}.weight"], sd[f"backbone.norm{i}.bias"]
        x = F.layer_norm(x.movedim(1, -1), weight.shape, weight, bias, 1e-5).movedim(-1, 1)
        x = x.contiguous(memory_format=memory_format)
        outputs.append(x)
    return outputs


def nmf(x: Tensor, bases: Tensor, steps: int) -> Tensor:
    """Factorise (B, D, N): update coef and bases multiplicatively, then coef once more; return their product."""
    coef = torch.softmax(x.mT @ bases, dim=-1)
    for _ in range(steps):
        coef = coef * (x.mT @ bases) / (coef @ (bases.mT @ bases) + 1e-6)
        bases = bases * (x @ coef) / (bases @ (coef.mT @ coef) + 1e-6)
    coef = coef * (x.mT @ bases) / (coef @ (bases.mT @ bases) + 1e-6)
    return bases @ coef.mT


def group_norm(sd: StateDict, name: str, x: Tensor) -> Tensor:
    """Apply GroupNorm with 32 groups."""
    return F.group_norm(x, 32, sd[f"{name}.weight"], sd[f"{name}.bias"], 1e-5)


def decode(sd: StateDict, levels: list[Tensor], bases: Tensor, steps: int = EVAL_STEPS) -> Tensor:
    """Decode the features of stages 2 to 4 to logits (N, K, H/8, W/8), from NMF bases (1 or N, D, R)."""
    size = levels[0].shape[2:]
    x = torch.cat([F.interpolate(x, size, mode="bilinear", align_corners=False) for x in levels], dim=1)
    head = "decode_head"
    x = F.relu(group_norm(sd, f"{head}.squeeze.gn", conv(sd, f"{head}.squeeze.conv", x)))
    ham = f"{head}.hamburger"
    z = F.relu(conv(sd, f"{ham}.ham_in.conv", x)).flatten(2)
    z = nmf(z, bases.expand(len(z), -1, -1), steps).view(x.shape)
    x = F.relu(x + group_norm(sd, f"{ham}.ham_out.gn", conv(sd, f"{ham}.ham_out.conv", z)))
    x = F.relu(group_norm(sd, f"{head}.align.gn", conv(sd, f"{head}.align.conv", x)))
    return conv(sd, f"{head}.conv_seg", x)


def logits(sd: StateDict, bases: Tensor, images: Tensor) -> Tensor:
    """Evaluate (N, 3, H, W) to logits (N, K, H/8, W/8)."""
    return decode(sd, features(sd, images)[1:], bases)


def resized(low: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize logits bilinearly."""
    return F.interpolate(low, size, mode="bilinear", align_corners=False)


def resized_argmax(low: Tensor, size: tuple[int, ...], axis: int = 1) -> Tensor:
    """Return the label map of low-resolution logits; ``upsample_argmax`` replaces this.

    Args:
        axis: where the class axis is for the argmax, 1 or -1; runtimes differ in which is faster.
    """
    full = resized(low, size)
    return full.argmax(1) if axis == 1 else full.permute(0, 2, 3, 1).argmax(-1)


def segment(sd: StateDict, bases: Tensor, images: Tensor) -> Tensor:
    """Evaluate (N, 3, H, W) to logits (N, K, H, W)."""
    return resized(logits(sd, bases, images), images.shape[2:])


def mask(sd: StateDict, bases: Tensor, images: Tensor, axis: int = 1) -> Tensor:
    """Evaluate (N, 3, H, W) to labels (N, H, W); see `resized_argmax` for ``axis``."""
    return resized_argmax(logits(sd, bases, images), images.shape[2:], axis)


def loss(sd: StateDict, bases: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy at the targets' size; batch norm uses the batch and updates ``sd``'s statistics."""
    low = decode(sd, features(sd, images, BN_MOMENTUM)[1:], bases, TRAIN_STEPS)
    return F.cross_entropy(resized(low, targets.shape[1:]), targets, ignore_index=255)


def classify(sd: StateDict, image: Tensor) -> Tensor:
    """Return ImageNet logits of MSCAN; ``sd`` has ``backbone.`` names and ``head.{weight,bias}``."""
    return F.linear(features(sd, image)[-1].mean((2, 3)), sd["head.weight"], sd["head.bias"])
