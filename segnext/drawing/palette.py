"""Colours for classes that have none: each is as far from the others as possible."""

from __future__ import annotations

import functools

import numpy as np

# CIE XYZ of linear sRGB, and of white (D65)
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
_STEPS = 17  # levels per channel; 17**3 candidates are enough for hundreds of classes


@functools.cache
def distinct_palette(count: int) -> np.ndarray:
    """Return colours that a viewer can tell apart: each next one is the farthest from all before it.

    Distances are Euclidean in CIELAB. Near-black and near-white are left out, since they vanish in a
    photograph and in a legend. The first colours are the same for every `count`.

    Args:
        count: number of colours, at least 1; they repeat after a few thousand.

    Returns:
        (count, 3) uint8, RGB, read-only.
    """
    levels = np.linspace(0, 255, _STEPS)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = lab_of(candidates)
    usable = (lab[:, 0] > 30) & (lab[:, 0] < 88)
    candidates, lab = candidates[usable], lab[usable]
    chosen = [int(np.argmax(lab[:, 1] ** 2 + lab[:, 2] ** 2))]  # the most colourful one
    nearest = np.full(len(lab), np.inf)
    for _ in range(min(count, len(lab)) - 1):
        nearest = np.minimum(nearest, ((lab - lab[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.argmax(nearest)))
    palette = np.resize(candidates[chosen].round().astype(np.uint8), (count, 3))
    palette.flags.writeable = False
    return palette


def is_colour(colour: object) -> bool:
    """Say whether a value of a text file is [red, green, blue], whole numbers of 0..255."""
    return (
        isinstance(colour, list)
        and len(colour) == 3
        and all(type(value) is int and 0 <= value <= 255 for value in colour)
    )


def lab_of(rgb: np.ndarray) -> np.ndarray:
    """Return CIELAB (D65) of (N, 3) sRGB colours on the 0..255 scale."""
    linear = rgb / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * (24389 / 27 / 116) + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
