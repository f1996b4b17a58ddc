"""What the doctor says about random data sets is what reading them does, and it counts the pixels that are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segnext.data.config import DataConfig, load_data_config
from segnext.data.findings import judge
from segnext.data.inspection import inspect_split
from tests.fuzz.conftest import Fuzzer

PAIRS = 3
COLOURS = np.array([[0, 0, 0], [128, 64, 0], [9, 9, 9], [255, 255, 255]], np.uint8)


@pytest.mark.filterwarnings("ignore::segnext.data.depth.ImageWarning", "ignore::UserWarning:PIL")
def test_the_doctor_agrees_with_reading(fuzzer: Fuzzer, tmp_path: Path) -> None:
    for case, rng in fuzzer.cases("data sets", 1000):
        folder = tmp_path / str(case)
        config = _data_set(folder, rng)
        fuzzer.check(case, lambda config=config: _disagreement(config))


def _disagreement(config: DataConfig) -> str | None:
    report = inspect_split(config, "train")
    dataset = config.open("train")
    wrong = {
        file
        for finding in judge(report)
        # Turns and masks of 0 and 255 are read, and perhaps wrongly: only the doctor sees them.
        if finding.level == "error" and not re.search(": EXIF turns the|look binary", finding.text)
        for file in finding.files
    }
    pixels = np.zeros(256, np.int64)
    for index, pair in enumerate(dataset.pairs):
        try:
            image, label = dataset[index]
        except ValueError as error:
            text = str(error)
            if not wrong.intersection(pair):
                return f"the doctor found nothing about {text}"
            if "\n" in text or not any(str(file) in text for file in pair):
                return f"the error does not name a file in one line: {text}"
        else:
            if wrong.intersection(pair):
                return f"{pair[1]} is read, but the doctor found an error"
            if image.shape != (*label.shape, 3) or (image.dtype, label.dtype) != (np.uint8, np.uint8):
                return f"{pair[0]} is {image.shape} {image.dtype}, its label {label.shape} {label.dtype}"
            pixels += np.bincount(label.ravel(), minlength=256)
    if not wrong and not np.array_equal(pixels, report.pixels):
        return f"counted {np.flatnonzero(report.pixels)}, read {np.flatnonzero(pixels)}"
    return None


def _data_set(folder: Path, rng: np.random.Generator) -> DataConfig:
    """Write pairs and their YAML; in half of the cases all files are sound."""
    keys: dict[str, Any] = {"classes": ["a", "b", "c", "d"][: rng.integers(2, 5)]}
    if rng.random() < 0.3:
        keys["ignore_index"] = int(rng.integers(256))
    if rng.random() < 0.3:
        keys["exif"] = str(rng.choice(["apply", "ignore"]))
    has_colours = rng.random() < 0.3
    if has_colours:
        keys |= {"color_labels": True, "palette": COLOURS[: len(keys["classes"])].tolist()}
    elif rng.random() < 0.3:
        keys["label_map"] = {int(id_): "ignore" for id_ in rng.choice([0, 1, 255, 300], 3, replace=False)}
    damage = float(rng.choice([0, 0.1]))
    ids = range(len(keys["classes"])) if "label_map" not in keys else list(keys["label_map"])
    for index in range(PAIRS):
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            pixels = rng.choice(ids, (4, 6) if rng.random() >= damage else (6, 4))
            if rng.random() < damage:
                pixels = rng.integers(0, 400, pixels.shape)
            _write(folder / kind / str(index), pixels, has_colours and kind == "labels", damage, rng)
    places = {"path": ".", "train": {"images": "images", "labels": "labels"}}
    (folder / "data.yaml").write_text(yaml.safe_dump(places | keys))
    return load_data_config(folder / "data.yaml")


def _write(stem: Path, ids: np.ndarray, in_colour: bool, damage: float, rng: np.random.Generator) -> None:
    """Write ids, or their colours, as a file of a random kind; it may be unfit or damaged."""
    kinds = ["RGB", "P", "RGBA"] if in_colour else ["L", "P", "RGB", "RGBA", "LA", "I;16"]
    mode = str(rng.choice([*kinds, "1", "F", "CMYK"] if rng.random() < damage else kinds))
    if ids.max() > 255:
        mode = "I;16"
    if mode in ("I;16", "F"):
        image = Image.fromarray(ids.astype(np.uint16 if mode == "I;16" else np.float32))
    elif in_colour:
        image = Image.fromarray(COLOURS[ids & 3])
        image = image.quantize(4) if mode == "P" else image.convert(mode)
    else:
        image = Image.fromarray(ids.astype(np.uint8)).convert(mode)
    suffixes = {
        "F": ["tif"],
        "CMYK": ["tif"],
        "P": ["png", "gif"],
        "RGB": ["png", "tif"],
        "L": ["png", "tif", "PGM"],
    }
    suffix = str(rng.choice(suffixes.get(mode, ["png"])))
    written = (
        suffix if rng.random() >= damage or mode not in ("L", "RGB") else "jpg"
    )  # a lie about the content
    path, exif = stem.with_suffix(f".{suffix}"), Image.Exif()
    if rng.random() < damage:
        exif[0x0112] = int(rng.integers(1, 9))
    options = {} if written in ("gif", "PGM") else {"exif": exif}
    with path.open("wb") as file:
        image.save(file, format={"jpg": "JPEG", "tif": "TIFF", "PGM": "PPM"}.get(written, written), **options)
    if rng.random() < damage:
        content = bytearray(path.read_bytes())
        if rng.random() < 0.5:
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        else:
            del content[int(rng.integers(len(content))) :]
        path.write_bytes(content)
