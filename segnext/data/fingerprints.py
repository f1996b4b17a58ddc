"""Finds images that are almost the same, such as one photograph in two sizes, or the same frame of a video.

Each image gets 64 bits (dHash: whether a cell of a 9x8 grid is darker than its right neighbour) and a grid of 18x16
gray values. Two images are almost the same if at most 4 bits differ and the grids are equal up to a few levels. The
bits alone are not enough: among millions of pairs, some streets under the same sky agree in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

MOST_BITS = (
    4  # that differ: of a recompressed or resized photograph it is 0 to 2, of two photographs about 32
)
MOST_LEVELS = (
    4.0  # mean difference of the grids, of 255: recompression makes 1, a car that drives by 5 and more
)
LEAST_CONTRAST = 24  # levels: the bits of an empty or foggy image are noise
GRID = (18, 16)  # width and height; twice those of the dHash
# Five bands of the 64 bits: of at most 4 bits that differ, one band has none.
_SHIFTS = np.array([0, 13, 26, 39, 52], np.uint64)
_BAND = np.uint64((1 << 13) - 1)


class Fingerprint(NamedTuple):
    """What is kept of an image: 0.3 kB.

    Attributes:
        bits: 64 bits, the dHash.
        grid: 288 gray values, row by row.
    """

    bits: int
    grid: bytes


def fingerprint_of(
    image: Image.Image, box: tuple[float, float, float, float] | None = None
) -> Fingerprint | None:
    """Return the fingerprint of a decoded image of mode 1, L, P or RGB; None if it is too plain to have one.

    Args:
        image: EXIF turns nothing here.
        box: left, upper, right and lower end of what counts; None: all.
    """
    if image.mode in ("1", "P"):
        image = image.convert("L")
    # The gap lets Pillow average whole pixels first, at a tenth of the cost, and then take what is left with weights.
    gray = image.resize(GRID, Image.Resampling.BILINEAR, box, reducing_gap=3.0).convert("L")
    grid = gray.tobytes()
    if max(grid) - min(grid) < LEAST_CONTRAST:
        return None
    cells = np.asarray(gray.resize((9, 8), Image.Resampling.BOX))
    bits = np.packbits(cells[:, :-1] < cells[:, 1:])
    return Fingerprint(int.from_bytes(bits.tobytes(), "big"), grid)


def near_pairs(ours: Sequence[Fingerprint], others: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Yield (index in `ours`, index in `others`) of each of ours that is almost the same as another, its nearest.

    Others are looked up by bands of equal bits, so that few are compared.
    """
    if not ours or not others:
        return
    bits, grids = _columns(others)
    own_bits, own_grids = _columns(ours)
    lookups = []
    for shift in _SHIFTS:
        band, own_band = bits >> shift & _BAND, own_bits >> shift & _BAND
        order = band.argsort()
        ends = (np.searchsorted(band[order], own_band, side) for side in ("left", "right"))
        lookups.append((order, *ends))
    for index in range(len(ours)):
        found = np.concatenate([order[first[index] : last[index]] for order, first, last in lookups])
        apart = np.unpackbits((bits[found] ^ own_bits[index]).view(np.uint8)).reshape(-1, 64).sum(1)
        found = found[apart <= MOST_BITS]
        if not len(found):
            continue
        levels = np.abs(grids[found] - own_grids[index]).mean(1)
        nearest = int(levels.argmin())
        if levels[nearest] <= MOST_LEVELS:
            yield index, int(found[nearest])


def _columns(fingerprints: Sequence[Fingerprint]) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) uint64 bits and (N, 288) int16 grids."""
    bits = np.array([one.bits for one in fingerprints], np.uint64)
    grids = np.frombuffer(b"".join(one.grid for one in fingerprints), np.uint8)
    return bits, grids.reshape(len(bits), -1).astype(np.int16)
