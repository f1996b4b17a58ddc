"""Tests the forms of masks in JSON on random masks: each gives the mask back exactly."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("segnext.serve", reason="the extra 'serve' is not installed", exc_type=ImportError)

from segnext.serve import masks


def random_mask(seed: int) -> np.ndarray:
    """Return noise, blobs, stripes or one class, of odd sizes; every kind of corner and hole is among them."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    classes = int(rng.integers(1, 5))
    if seed % 3 == 0:
        return rng.integers(0, classes, (height, width)).astype(np.uint8)
    coarse = rng.integers(0, classes, (height // 4 + 1, width // 4 + 1)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.NEAREST))


MASKS = [random_mask(seed) for seed in range(120)]


def centres_inside(ring: list[float], height: int, width: int) -> np.ndarray:
    """Return (H, W) bool: the pixels whose centre a ring surrounds, by counting its edges to the left."""
    points = np.array(ring).reshape(-1, 2)
    inside = np.zeros((height, width), bool)
    xs = np.arange(width) + 0.5
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        for row in range(height):
            y = row + 0.5
            # A vertex may be level with a centre: an edge has its lower end, but not its upper one.
            if min(y0, y1) <= y < max(y0, y1):
                inside[row] ^= xs > x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return inside


def test_runs():
    for mask in MASKS:
        found = np.array(masks.runs(mask)).reshape(-1, 2)
        np.testing.assert_array_equal(np.repeat(found[:, 0], found[:, 1]).reshape(mask.shape), mask)
        assert (found[1:, 0] != found[:-1, 0]).all()


def test_run_lengths():
    for mask in MASKS:
        back = np.full(mask.shape, 255)
        for entry in masks.run_lengths(mask):
            counts = entry["counts"]
            assert sum(counts) == mask.size and 0 not in counts[1:]
            inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(entry["size"], order="F")
            assert inside.any() and (back[inside] == 255).all()
            back[inside] = entry["id"]
        np.testing.assert_array_equal(back, mask)


def test_coco_counts_of_a_known_mask():
    mask = np.array([[1, 0, 0], [1, 1, 0]], np.uint8)
    zero, one = masks.run_lengths(mask)
    assert one == {"id": 1, "size": [2, 3], "counts": [0, 2, 1, 1, 2]}
    assert zero == {"id": 0, "size": [2, 3], "counts": [2, 1, 1, 2]}


def test_polygons():
    holes = 0
    for mask in MASKS:
        back = np.full(mask.shape, 255)
        for entry in masks.polygons(mask):
            inside = np.zeros(mask.shape, bool)
            for outer, *inner in entry["polygons"]:
                part = centres_inside(outer, *mask.shape)
                for ring in inner:
                    hole = centres_inside(ring, *mask.shape)
                    assert (part | ~hole).all()  # a hole lies in its own polygon
                    part &= ~hole
                    holes += 1
                assert part.any() and not (part & inside).any()
                inside |= part
            back[inside] = entry["id"]
        np.testing.assert_array_equal(back, mask)
    assert holes > 10


def test_polygons_of_a_known_mask():
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 1:4] = 7
    (_, seven) = masks.polygons(mask)
    assert seven["id"] == 7
    ((ring,),) = seven["polygons"]
    points = {tuple(point) for point in np.array(ring).reshape(-1, 2).tolist()}
    assert points == {(1.5, 1), (3.5, 1), (4, 1.5), (4, 2.5), (3.5, 3), (1.5, 3), (1, 2.5), (1, 1.5)}
    assert len(ring) == 2 * len(points)


def test_masks_of_many_classes():
    mask = np.arange(300, dtype=np.int32).reshape(15, 20)
    assert len(masks.polygons(mask)) == len(masks.run_lengths(mask)) == 300
    assert masks.runs(mask)[-2:] == [299, 1]
