"""SegNeXt as its users run it today: the official arithmetic in plain PyTorch, the peer of our models.

Made of the parts of oracle/transcription.py, the oracle of the model tests, on state dicts with the
official names. Added here: one memory format from end to end, logits before resizing, the training loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oracle.transcription import StateDict, attention, batch_norm, conv, ffn, group_norm, nmf

BN_MOMENTUM = 0.1
EVAL_STEPS, TRAIN_STEPS = 7, 6


def features(sd: StateDict, images: Tensor, momentum: float | None = None) -> list[Tensor]:
    """The four stages' outputs in the images' memory format; ``momentum`` for BN in training."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, outputs = images, []
    for i in range(1, 5):
        embed = f"backbone.patch_embed{i}"
        if i == 1:
            x = F.gelu(batch_norm(sd, f"{embed}.proj.1", conv(sd, f"{embed}.proj.0", x, stride=2), momentum))
            x = batch_norm(sd, f"{embed}.proj.4", conv(sd, f"{embed}.proj.3", x, stride=2), momentum)
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
        x = x.contiguous(memory_format=layout)
        outputs.append(x)
    return outputs


def decode(sd: StateDict, levels: list[Tensor], bases: Tensor, steps: int = EVAL_STEPS) -> Tensor:
    """Logits (N, K, H/8, W/8) of the features of stages 2 to 4; bases (1 or N, D, R)."""
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
    """Evaluation: (N, 3, H, W) to (N, K, H/8, W/8)."""
    return decode(sd, features(sd, images)[1:], bases)


def resized_argmax(low: Tensor, size: tuple[int, int]) -> Tensor:
    """The label map of logits at low resolution: what ``upsample_argmax`` replaces."""
    return F.interpolate(low, size, mode="bilinear", align_corners=False).argmax(1)


def mask(sd: StateDict, bases: Tensor, images: Tensor) -> Tensor:
    """Evaluation: (N, 3, H, W) to labels (N, H, W)."""
    return resized_argmax(logits(sd, bases, images), (images.shape[2], images.shape[3]))


def mask_innermost(sd: StateDict, bases: Tensor, images: Tensor) -> Tensor:
    """As `mask`, the classes moved innermost before the maximum: some runtimes are faster at that."""
    low = logits(sd, bases, images)
    size = (images.shape[2], images.shape[3])
    return F.interpolate(low, size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1).argmax(-1)


def loss(sd: StateDict, bases: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Training: cross-entropy at the images' size; BN by the batch, running statistics updated in ``sd``."""
    low = decode(sd, features(sd, images, BN_MOMENTUM)[1:], bases, TRAIN_STEPS)
    full = F.interpolate(low, targets.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, targets, ignore_index=255)
