"""Writes a miniature of ImageNet: three classes of noise around a colour, in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

FOLDERS = ("n01440764", "n01443537", "n01484850")
COLOURS = ((180, 90, 90), (90, 180, 90), (90, 90, 180))


def noise(class_id: int, seed: int, height: int = 40, width: int = 52) -> np.ndarray:
    """Return an (H, W, 3) uint8 image of a class."""
    rng = np.random.default_rng([class_id, seed])
    return np.clip(rng.normal(COLOURS[class_id], 40, (height, width, 3)), 0, 255).astype(np.uint8)


def write_class_folders(root: Path, train: int = 10, val: int = 4) -> Path:
    """Write `train` and `val` images of each class below `root`, and return it."""
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for class_id, folder in enumerate(FOLDERS):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
            for number in range(first, first + count):
                image = Image.fromarray(noise(class_id, number))
                image.save(root / split / folder / f"{folder}_{number}.JPEG", quality=95)
    return root


def write_thousand_folders(root: Path) -> Path:
    """Write one tiny training image in each of 1,000 class folders, and one validation image in three of them.

    The folders are named as ImageNet's are, the three with its real names; their images have a colour per class.
    """
    names = sorted({*FOLDERS, *(f"n{number:08d}" for number in range(2_000_000, 2_000_997))})
    for split, folders in (("train", names), ("val", FOLDERS)):
        for folder in folders:
            (root / split / folder).mkdir(parents=True)
            colour = np.random.default_rng(int(folder[1:])).integers(0, 256, 3, np.uint8)
            image = Image.fromarray(np.broadcast_to(colour, (24, 32, 3)).copy())
            image.save(root / split / folder / f"{folder}_{len(split)}.JPEG")
    return root
