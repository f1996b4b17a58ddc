"""Makes a tiny data set to train on: each class has a colour, in rectangles on a background of class 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

CLASSES = ["ground", "roof", "door"]
COLOURS = np.array([[60, 120, 50], [200, 60, 40], [40, 60, 200]], np.uint8)


def scene(seed: int, height: int = 40, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Return one noisy image (H, W, 3) and its label map (H, W), whose first row is ignored (255)."""
    rng = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    for class_id in (1, 2):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        label[top : top + height // 2, left : left + width // 3] = class_id
    noise = rng.integers(-20, 21, (height, width, 3))
    image = np.clip(COLOURS[label] + noise, 0, 255).astype(np.uint8)
    label[0] = 255
    return image, label


def write_pair(folder: Path, split: str, stem: str, image: np.ndarray, label: np.ndarray) -> None:
    """Write one image and its label to images/SPLIT and labels/SPLIT below `folder`."""
    for kind, array in (("images", image), ("labels", label)):
        path = folder / kind / split / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def write_yaml(file: Path, **changes: object) -> Path:
    """Write a data YAML for the folders of `write_data_set`; None removes a key."""
    content: dict[str, object] = {
        "name": "houses",
        "path": ".",
        "train": {"images": "images/train", "labels": "labels/train"},
        "val": {"images": "images/val", "labels": "labels/val"},
        "classes": CLASSES,
        "palette": COLOURS.tolist(),
    }
    content |= changes
    file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return file


def write_data_set(folder: Path, train: int = 5, val: int = 2) -> Path:
    """Write `train` and `val` scenes and the YAML; return the YAML's path."""
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for index in range(count):
            write_pair(folder, split, f"scene{index:02d}", *scene(first + index))
    return write_yaml(folder / "houses.yaml")
