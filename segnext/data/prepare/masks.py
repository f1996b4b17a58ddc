"""Makes masks: PNG files of ids, and the run lengths (RLE) and polygons of annotation files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segnext.drawing.encoding import encoded
from segnext.one_line import shown

_END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"
LARGEST_SIDE = 65_535  # pixels; a wrong number in a JSON file must not ask for all memory


def png_bytes(pixels: np.ndarray) -> bytes:
    """Return (H, W) ids or (H, W, 3) RGB, uint8, as a PNG file."""
    return encoded(Image.fromarray(pixels), format="PNG")


def is_complete(path: Path) -> bool:
    """Say whether a PNG file is there up to its end; one that was cut off while it was copied is not."""
    if not path.is_file() or path.stat().st_size <= len(_END_OF_PNG):
        return False
    with path.open("rb") as file:
        file.seek(-len(_END_OF_PNG), io.SEEK_END)
        return file.read() == _END_OF_PNG


def checked_size(width: object, height: object) -> tuple[int, int]:
    """Return the width and height that an annotation file states.

    Raises:
        ValueError: they are no numbers of pixels.
    """
    for side in (width, height):
        if type(side) is not int or not 1 <= side <= LARGEST_SIDE:
            raise ValueError(f"width and height must be pixels, got {shown(width)} and {shown(height)}")
    assert isinstance(width, int) and isinstance(height, int)
    return width, height


def points_of(polygon: object, fewest: int = 3) -> list[tuple[float, float]]:
    """Return the corners of a polygon, given as pairs [x, y].

    Raises:
        ValueError: there are too few, or something else than pairs of numbers.
    """
    if (
        not isinstance(polygon, list)
        or len(polygon) < fewest
        or not all(isinstance(point, list) and len(point) == 2 for point in polygon)
        or not all(
            type(number) in (int, float) and abs(number) < 1e9 for point in polygon for number in point
        )
    ):
        raise ValueError(f"an outline must have {fewest} or more points [x, y], got {shown(polygon)}")
    return [(x, y) for x, y in polygon]


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """Decode the run lengths of COCO's files.

    Args:
        rle: "size", [height, width], and "counts", the lengths of the runs down the columns, beginning with one of
            zeros: a list, or COCO's text of them.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: the runs do not fill the mask.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"the size of an RLE must be [height, width], got {shown(size)}")
    width, height = checked_size(size[1], size[0])
    runs = _runs(counts) if isinstance(counts, str) else counts
    if (
        not isinstance(runs, list)
        or not all(type(run) is int and 0 <= run <= width * height for run in runs)
        or sum(runs) != width * height
    ):
        raise ValueError(f"the runs of an RLE must fill its {height}x{width} pixels, got {shown(counts)}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _runs(text: str) -> list[int]:
    """Return the lengths that COCO's text holds: 5 bits per letter; from the fourth on, differences to two before."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise ValueError(f"the text of an RLE must have letters from 0 to o, got {letter!r}")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:  # more letters follow
            continue
        if code & 16:  # negative
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
