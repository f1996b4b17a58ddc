"""iSAID (Zamir et al. 2019): large aerial images and their colour masks to tiles of 896x896.

Tiles begin every 512 pixels; the last one of a row or column is moved back to the edge. Images that are smaller are
padded at the right and at the bottom, with black and with the ignored id. Names and pixels are those of
mmsegmentation's tiles, whose results are compared on them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segnext.data.images import opened, read_image
from segnext.data.labels import VOID, read_colours
from segnext.data.prepare.masks import png_bytes
from segnext.data.prepare.plan import Job, Plan, Request, missing

TILE = 896
OVERLAP = 384
PALETTE = (
    *((0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191), (0, 63, 255), (0, 127, 63)),
    *((0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255), (0, 191, 127), (0, 127, 191), (0, 127, 255)),
    (0, 100, 155),
)
"""The colours of background, ship, store tank, baseball diamond, ... harbor, in the order of their ids."""
SPLITS = ("train", "val")
_MASK = "_instance_color_RGB"
_STEP = "unpack images.zip and Semantic_masks/images.zip in the folders of each split, and DOTA's images"

Window = tuple[int, int]  # the top and left pixel of a tile


def windows(height: int, width: int) -> list[Window]:
    """Return where the tiles of an image begin."""
    return [(top, left) for top in _starts(height) for left in _starts(width)]


def _starts(length: int) -> list[int]:
    last = max(length - TILE, 0)
    return sorted({min(start, last) for start in range(0, length, TILE - OVERLAP)})


@dataclass(frozen=True)
class Tiles(Job):
    """Cuts one file, an image or its mask.

    Attributes:
        source: the image or the mask.
        folder: where the tiles go.
        name: begins the tiles' names.
        is_mask: the file holds the colours of classes.
    """

    source: Path
    folder: Path
    name: str
    is_mask: bool

    def outputs(self) -> list[Path]:
        return list(self._windows())

    def contents(self, wanted: Collection[Path]) -> Iterator[tuple[Path, bytes]]:
        pixels = _padded(_ids(self.source), VOID) if self.is_mask else _padded(read_image(self.source), 0)
        wanted = set(wanted)
        for path, (top, left) in self._windows().items():
            if path in wanted:
                yield path, png_bytes(pixels[top : top + TILE, left : left + TILE])

    def _windows(self) -> dict[Path, Window]:
        with opened(self.source) as image:
            width, height = image.size
        end = _MASK if self.is_mask else ""
        return {
            self.folder / f"{self.name}_{top}_{top + TILE}_{left}_{left + TILE}{end}.png": (top, left)
            for top, left in windows(height, width)
        }


def plan(request: Request) -> Plan:
    """Return two jobs for every image; see `segnext.data.prepare.plan.plan`."""
    jobs: list[Tiles] = []
    for split in SPLITS:
        masks = _named((request.root / split).rglob(f"*{_MASK}.png"))
        images = _named(
            path for path in (request.root / split).rglob("*.png") if "_instance_" not in path.name
        )
        for files, place in ((images, f"{split}/images"), (masks, f"{split}/Semantic_masks")):
            if not files:
                raise missing(request.root / place / "*.png", _STEP)
        alone = sorted(images.keys() ^ masks.keys())
        if alone:
            raise ValueError(
                f"data prepare: each image of {request.root / split} must have its mask, got {len(alone)} without a "
                f"partner ({', '.join(alone[:3])}); {_STEP}"
            )
        for kind, files in (("img_dir", images), ("ann_dir", masks)):
            folder = request.out / kind / split
            jobs += [Tiles(path, folder, name, kind == "ann_dir") for name, path in files.items()]
    return Plan(jobs, check=("isaid", "--root", str(request.out)))


def _named(files: Iterator[Path]) -> dict[str, Path]:
    return {path.stem.removesuffix(_MASK): path for path in sorted(files)}


def _ids(source: Path) -> np.ndarray:
    colours = read_colours(source)
    ids = np.full(colours.shape, VOID, np.uint8)
    for index, (red, green, blue) in enumerate(PALETTE):
        ids[colours == (red << 16 | green << 8 | blue)] = index
    if (ids == VOID).any():
        colour = int(colours[ids == VOID][0])
        raise ValueError(
            f"colours must be iSAID's 16, got {[colour >> 16, colour >> 8 & 255, colour & 255]}; take the files of "
            "Semantic_masks"
        )
    return ids


def _padded(pixels: np.ndarray, value: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    missing_rows, missing_columns = max(TILE - height, 0), max(TILE - width, 0)
    edges = ((0, missing_rows), (0, missing_columns), *((0, 0),) * (pixels.ndim - 2))
    return np.pad(pixels, edges, constant_values=value)
