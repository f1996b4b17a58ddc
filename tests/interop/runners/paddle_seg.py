"""Runs PaddleSeg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import paddle
from paddle import nn
from paddleseg.models import SegNeXt
from paddleseg.models.backbones import mscan
from paddleseg.models.layers import NMF2D


def pin(rank: int, channels: int) -> None:
    """Let every forward pass take the same bases instead of random ones."""
    drawn = paddle.to_tensor(common.bases(channels, rank))
    NMF2D._build_bases = lambda self, B, S, D, R: paddle.tile(drawn, [B * S, 1, 1])


def build(task: dict[str, Any]) -> Any:
    """Build what PaddleSeg's YAML of this size builds, with the task's changes."""
    changes = task["changes"]
    ham = {"MD_R": 16, **changes.get("ham_kwargs", {})}
    width = changes.get("channels", 256)
    pin(ham["MD_R"], width)
    decoder = {
        "channels": width,
        "ham_channels": width,
        "align_corners": changes.get("align_corners", False),
        "ham_kwargs": ham,
    }
    backbone = getattr(mscan, f"MSCAN_{task['size'].upper()}")()
    return SegNeXt(backbone, decoder, changes.get("num_classes", 5))


def outputs(model: Any) -> list[Any]:
    model.eval()
    results = []
    with paddle.no_grad():
        for image in map(paddle.to_tensor, common.images()):
            small = model.decode_head(model.backbone(image))
            results.append((small.numpy(), model(image)[0].numpy()))
    return results


def write(folder: Path, task: dict[str, Any]) -> None:
    model = build(task)
    parameters = dict(model.named_parameters())
    for name, value in common.values({key: tuple(p.shape) for key, p in parameters.items()}).items():
        parameters[name].set_value(value)
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D | nn.SyncBatchNorm):
            layer._momentum = 0.0  # the statistics are those of the next batch
    model.train()
    with paddle.no_grad():
        model(paddle.to_tensor(common.calibration()))
    common.store(folder / "peer.npz", outputs(model))
    paddle.save(model.state_dict(), str(folder / "peer.pdparams"))


def read(folder: Path, task: dict[str, Any]) -> None:
    model = build(task)
    missing, unexpected = model.set_state_dict(paddle.load(str(folder / "back.pdparams")))
    assert not missing and not unexpected, f"missing {missing}, unexpected {unexpected}"
    common.store(folder / "back.npz", outputs(model))


common.main(write, read)
