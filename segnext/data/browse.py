"""Shows what a data set looks like: some pairs of each split on one sheet, with their masks drawn over."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from segnext.data.config import DataConfig
from segnext.data.dataset import SegmentationFolder
from segnext.drawing.contact_sheet import CELL, Cell, draw_sheet
from segnext.drawing.overlay import add_legend, draw_overlay

PAIRS = 24
IGNORED = (0, 0, 0)


def browse(config: DataConfig, pairs: int = PAIRS) -> Image.Image:
    """Return a sheet of pairs, evenly spread over the splits and in each of them, with a legend of their classes.

    A pair that cannot be read, or a split that cannot be opened, is a red field with the reason. Ignored pixels are
    black.
    """
    cells: list[Cell] = []
    datasets: dict[str, SegmentationFolder] = {}
    for split in config.splits:
        try:
            datasets[split] = config.open(split)
        except (ValueError, OSError) as error:
            cells.append(Cell(split, None, str(error)))
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(config.palette)] = config.palette
    palette[config.ignore_index] = IGNORED
    pixels = np.zeros(256, np.int64)
    chosen = spread({split: len(dataset) for split, dataset in datasets.items()}, pairs)
    for split, indices in chosen.items():
        for index in indices:
            cell, counts = _cell(datasets[split], split, index, palette)
            cells.append(cell)
            pixels += counts
    return add_legend(draw_sheet(cells), _legend(config, pixels))


def spread(sizes: Mapping[str, int], pairs: int) -> dict[str, list[int]]:
    """Return which items of each split are shown: as many of each, and more of others where one is too small."""
    counts: dict[str, int] = {}
    for done, split in enumerate(sorted(sizes, key=lambda split: sizes[split])):
        share = (pairs - sum(counts.values())) // (len(sizes) - done)
        counts[split] = min(sizes[split], share)
    return {
        split: np.linspace(0, size - 1, counts[split]).round().astype(int).tolist()
        for split, size in sizes.items()
    }


def _cell(
    dataset: SegmentationFolder, split: str, index: int, palette: np.ndarray
) -> tuple[Cell, np.ndarray]:
    """Return the picture of one pair, and the pixels of each id in its label."""
    image_file, _ = dataset.pairs[index]
    name = f"{split}: {image_file.name}"
    try:
        image, label = dataset[index]
    except (ValueError, OSError) as error:
        return Cell(name, None, str(error)), np.zeros(256, np.int64)
    small = Image.fromarray(image)
    small.thumbnail(CELL)
    mask = Image.fromarray(label).resize(small.size, Image.Resampling.NEAREST)
    picture = draw_overlay(np.asarray(small), np.asarray(mask), palette)
    return Cell(name, picture), np.bincount(label.ravel(), minlength=256)


def _legend(config: DataConfig, pixels: np.ndarray) -> list[tuple[int, str, tuple[int, int, int], float]]:
    total = max(int(pixels.sum()), 1)
    entries = [
        (index, name, colour, pixels[index] / total)
        for index, (name, colour) in enumerate(zip(config.classes, config.palette, strict=True))
        if pixels[index] and index != config.ignore_index
    ]
    ignored = pixels[config.ignore_index]
    return entries + ([(config.ignore_index, "(ignored)", IGNORED, ignored / total)] if ignored else [])
