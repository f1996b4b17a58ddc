"""Masks as JSON: runs, COCO's run lengths per class, and polygons; each gives the mask back exactly."""

from __future__ import annotations

import threading
from typing import Any

import contourpy
import numpy as np

# contourpy holds about 32 bytes per pixel, more than all else that an image needs: one class is traced at a time.
_TRACING = threading.Lock()


def runs(mask: np.ndarray) -> list[int]:
    """Return a mask (H, W) as [id, length, id, length, ...], row by row; runs go on from one row to the next."""
    ids, lengths = _runs(mask.ravel())
    return list(np.stack([ids, lengths], axis=1).ravel().tolist())


def run_lengths(mask: np.ndarray) -> list[dict[str, Any]]:
    """Return COCO's uncompressed RLE of each class that is present in a mask (H, W).

    Returns:
        For each class ``{"id", "size": [H, W], "counts"}``: lengths of runs down the columns, from left to right, in
        turn outside and inside of the class. The first is 0 where the first pixel is inside.
    """
    ids, lengths = _runs(mask.ravel(order="F"))
    ends = lengths.cumsum()
    found = []
    for class_id in np.unique(ids).tolist():
        own = ids == class_id  # runs of one class never touch
        stops = ends[own]
        starts = stops - lengths[own]
        edges = np.stack([starts, stops], axis=1).ravel()
        counts = np.diff(edges, prepend=0)
        if edges[-1] < mask.size:
            counts = np.append(counts, mask.size - edges[-1])
        found.append({"id": class_id, "size": list(mask.shape), "counts": counts.tolist()})
    return found


def polygons(mask: np.ndarray) -> list[dict[str, Any]]:
    """Return the outlines of each class that is present in a mask (H, W), from contourpy's marching squares.

    A pixel is in a class exactly if its centre is inside of one of the class's polygons, and in none of its holes. The
    outline passes midway between the centres of two neighbours, so that corners are cut and slanted edges are straight.
    Outlines never touch each other or themselves.

    Returns:
        For each class ``{"id", "polygons"}``; a polygon is a list of rings, first the outer one, then its holes. A ring
        is [x, y, x, y, ...] in pixels from the image's upper left corner: the centre of the first pixel is (0.5, 0.5).
        The last point is not the first one again.
    """
    return [
        {"id": class_id, "polygons": _outlines(mask == class_id)} for class_id in np.unique(mask).tolist()
    ]


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[starts].astype(np.int64), np.diff(starts, append=values.size)


def _outlines(inside: np.ndarray) -> list[list[list[float]]]:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top, left = int(rows[0]), int(columns[0])
    part = inside[top : rows[-1] + 1, left : columns[-1] + 1]
    # A border of other pixels closes the outlines; with it, the first centre of `part` is at 1, and shall be at 0.5.
    level = np.pad(part, 1).astype(np.float32)
    with _TRACING:
        contours = contourpy.contour_generator(z=level, fill_type=contourpy.FillType.OuterOffset)
        filled = contours.filled(0.5, np.inf)
        del contours
    shift = (left - 0.5, top - 0.5)
    found = []
    for points, offsets in zip(*filled, strict=True):
        rings = [points[start : end - 1] + shift for start, end in zip(offsets, offsets[1:], strict=False)]
        found.append([_corners(ring).ravel().tolist() for ring in rings])
    return found


def _corners(ring: np.ndarray) -> np.ndarray:
    """Return a ring (N, 2) without the points at which it goes straight on."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns: np.ndarray = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return ring[turns]
