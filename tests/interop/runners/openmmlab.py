"""Runs mmsegmentation 1.x, or its successor under the name of onedl, which installs the same modules."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import common
import torch
from torch import nn


class _Operators(types.ModuleType):
    """Stands for ``mmcv.ops``, which mmcv-lite lacks. mmsegmentation imports its names; SegNeXt calls none of them."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


try:
    import mmcv.ops  # noqa: F401
except ImportError:
    sys.modules["mmcv.ops"] = _Operators("mmcv.ops")

import mmseg  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.runner import save_checkpoint  # noqa: E402
from mmengine.runner.checkpoint import load_checkpoint  # noqa: E402
from mmseg.models.decode_heads import ham_head  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

register_all_modules()


def pin(rank: int, channels: int) -> None:
    """Let every forward pass take the same bases instead of random ones."""
    drawn = torch.from_numpy(common.bases(channels, rank))
    ham_head.NMF2D._build_bases = lambda self, B, S, D, R, device=None: drawn.repeat(B * S, 1, 1)


def configuration(task: dict[str, Any]) -> Config:
    """Return mmsegmentation's own configuration of this size, with the task's changes."""
    folder = Path(mmseg.__file__).parent / ".mim/configs/segnext"
    (path,) = folder.glob(f"segnext_mscan-{task['size']}_1xb16*ade20k-512x512.py")
    config = Config.fromfile(path)
    config.merge_from_dict(task["changes"])
    config.model.backbone.init_cfg = None
    return config


def outputs(model: Any) -> list[Any]:
    model.eval()
    results = []
    with torch.no_grad():
        for image in map(torch.from_numpy, common.images()):
            small = model.decode_head(model.extract_feat(image))
            full = model.encode_decode(image, [{"img_shape": image.shape[2:]}])
            results.append((small.numpy(), full.numpy()))
    return results


def build(config: Config) -> Any:
    """Build a model with values as training leaves them, in training mode; its bases are pinned."""
    model = MODELS.build(config.model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in common.values({key: tuple(p.shape) for key, p in parameters.items()}).items():
            parameters[name].copy_(torch.from_numpy(value))
        head = config.model.decode_head
        pin(head.ham_kwargs.MD_R, head.ham_channels)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        model.train()
        model.decode_head(model.extract_feat(torch.from_numpy(common.calibration())))
    return model


def write(folder: Path, task: dict[str, Any]) -> None:
    config = configuration(task)
    model, head = build(config), config.model.decode_head
    common.store(folder / "peer.npz", outputs(model))
    classes = [f"class {index}" for index in range(head.num_classes)]
    meta = {
        "cfg": config.pretty_text,
        "dataset_meta": {"classes": classes, "palette": [[1, 2, 3]] * len(classes)},
    }
    save_checkpoint({"meta": meta, "state_dict": model.state_dict()}, str(folder / "peer.pth"))


def read(folder: Path, task: dict[str, Any]) -> None:
    """Build the model from the text in the file, load the file strictly, and run it."""
    path = str(folder / "back.pth")
    text = torch.load(path, weights_only=True)["meta"]["cfg"]
    config = Config.fromstring(text, ".py")
    pin(config.model.decode_head.ham_kwargs.MD_R, config.model.decode_head.ham_channels)
    model = MODELS.build(config.model)
    load_checkpoint(model, path, map_location="cpu", strict=True)
    common.store(folder / "back.npz", outputs(model))


if __name__ == "__main__":
    common.main(write, read)
