"""A data YAML alone says how label maps hold the classes: binary masks, colours, 16-bit ids, 0 for no class."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segnext.data.config import load_data_config

COLOURS = np.array([[0, 0, 0], [128, 64, 128], [220, 20, 60], [255, 255, 255]], np.uint8)
RGB = {"palette": COLOURS[:3].tolist(), "color_labels": True}


def paletted(ids: np.ndarray) -> Image.Image:
    """Return an image of the ids' colours as a palette stores them, in an order of its own."""
    image = Image.fromarray(3 - ids)
    image.putpalette(COLOURS[::-1].tobytes())
    return image


def masks() -> dict[str, tuple[Image.Image, dict[str, Any], list[int]]]:
    """Return a label map, the keys of the data YAML that read it, and the classes of its four columns."""
    ids = np.tile(np.arange(4, dtype=np.uint8), (3, 1))
    binary = np.where(ids < 2, 0, 255).astype(np.uint8)
    deep = np.array([1000, 1001, 40000, 65535], np.uint16)[ids]
    two, three = ["ground", "roof"], ["ground", "roof", "door"]
    to_two = {"classes": two, "label_map": {0: 0, 255: 1}}
    bilevel = Image.fromarray(binary).convert("1")
    return {
        "binary-gray": (Image.fromarray(binary), to_two, [0, 0, 1, 1]),
        "binary-rgb": (Image.fromarray(binary).convert("RGB"), to_two, [0, 0, 1, 1]),
        # One bit per pixel holds 0 and 1, whatever a viewer shows.
        "binary-one-bit": (bilevel, {"classes": two}, [0, 0, 1, 1]),
        "binary-black-is-void": (
            Image.fromarray(binary),
            {"classes": two, "label_map": {0: "ignore", 255: 1}},
            [255, 255, 1, 1],
        ),
        "rgb": (
            Image.fromarray(COLOURS[ids]),
            {"classes": three, **RGB, "ignore_colors": [[255, 255, 255]]},
            [0, 1, 2, 255],
        ),
        "rgb-palette": (
            paletted(ids),
            {"classes": three, **RGB, "ignore_colors": [[255, 255, 255]]},
            [0, 1, 2, 255],
        ),
        "16-bit": (
            Image.fromarray(deep),
            {"classes": three, "label_map": {"1000-1001": 0, 40000: 2, 65535: "ignore"}},
            [0, 1, 2, 255],
        ),
        "0-is-void": (
            Image.fromarray(ids),
            {"classes": three, "label_map": {0: "ignore", "1-3": 0}},
            [255, 0, 1, 2],
        ),
        "0-is-void-and-a-class-name": (
            Image.fromarray(ids),
            {"classes": ["void", *three], "ignore_index": 0},
            [0, 1, 2, 3],
        ),
    }


@pytest.mark.parametrize(
    ("kind", "extension"),
    # BMP has no 16 bits per channel.
    [pair for pair in product(masks(), ["png", "tif", "bmp"]) if pair != ("16-bit", "bmp")],
)
def test_the_yaml_says_what_label_maps_hold(kind: str, extension: str, tmp_path: Path) -> None:
    label, keys, expected = masks()[kind]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", label.size).save(tmp_path / "images" / "a.png")
    label.save(tmp_path / "labels" / f"a.{extension}")
    content = {"path": ".", "train": {"images": "images", "labels": "labels"}, **keys}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    _, found = load_data_config(tmp_path / "data.yaml").open("train")[0]
    np.testing.assert_array_equal(found, np.tile(np.array(expected, np.uint8), (3, 1)))
