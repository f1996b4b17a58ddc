"""Makes what the command lines of the documents name: photographs, a data set, checkpoints, a module."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

import segnext
from bench.film import write_clip
from segnext.models import dialects
from segnext.weights import save
from tests.data.synthetic import CLASSES, COLOURS, write_data_set
from tests.docs.blocks import ROOT

SIZE = (96, 64)  # width and height of the small photographs
MODULE = """
from oracle import foreign_models

def build():
    return foreign_models.Mlp(16, 32)

build_model = build
"""
# Options that make a command short; the last one of a name counts.
SHORT = {
    "train": "--steps 2 --warmup 0 --batch-size 2 --crop 64 --workers 0 --device cpu",
    "val": "--device cpu",
    "patch": "--size 12x9 --channels 16 --seconds 0 --batch 1",
}
SMALL = {"export": {"--size": "64x96"}}  # only where the line has the option


def shortened(words: list[str]) -> list[str]:
    """Return what `segnext` gets in place of the words of a command line, to be quick."""
    small = [
        word
        for option, value in SMALL.get(words[0], {}).items()
        if option in words
        for word in (option, value)
    ]
    return [*words, *shlex.split(SHORT.get(words[0], "")), *small]


def prepare(folder: Path, text: str) -> None:
    """Write into a folder what a page's commands read; checkpoints only where the text names them."""
    photograph = Image.open(ROOT / "docs" / "street.jpg")
    small = photograph.resize(SIZE)
    for name in (
        "photo.jpg",
        "a.jpg",
        "b.jpg",
        "huge.tif",
        "photos/first.jpg",
        "photos/second.png",
        "more/third.png",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        small.save(folder / name)
    for name in ("street.jpg", "docs/street.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "docs" / "street.jpg", folder / name)
    write_data_set(folder).rename(folder / "mine.yaml")
    if "clip.mp4" in text:
        write_clip(folder / "clip.mp4", *SIZE[::-1], 4)
    if "moving.gif" in text:
        small.save(folder / "moving.gif", save_all=True, append_images=[photograph.rotate(9).resize(SIZE)])
    if "frames/%06d.png" in text:
        (folder / "frames").mkdir()
        for index in range(2):
            small.save(folder / f"frames/{index:06d}.png")
    for module in ("networks.py", "my_project/networks.py"):
        (folder / module).parent.mkdir(exist_ok=True)
        (folder / module).write_text(MODULE)
    for name, write in CHECKPOINTS.items():
        if name in text and not (name.startswith("runs/") and "segnext train" in text):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / name)


def _own(path: Path) -> None:
    torch.manual_seed(0)
    save(segnext.segnext_t(num_classes=3), path, {"classes": CLASSES, "palette": COLOURS.tolist()})


def _official(path: Path) -> None:
    model = segnext.segnext_t(num_classes=150)
    torch.save({"meta": {}, "state_dict": dialects.to_official(model.state_dict())}, path)


def _encoder(path: Path) -> None:
    model = segnext.create_model("mscan_t")
    torch.save({"state_dict": dialects.to_official(model.state_dict())}, path)


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "mine.safetensors": _own,
    "runs/mine/final.safetensors": _own,
    "segnext_small.pth": _official,
    "segnext_tiny_512x512_ade_160k.pth": _official,
    "mscan_t.pth": _encoder,
}
