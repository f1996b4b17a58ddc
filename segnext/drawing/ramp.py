"""Colours for numbers: equal steps of a number are equal steps to the eye."""

from __future__ import annotations

import functools

import numpy as np

from segnext.drawing.palette import TO_XYZ, WHITE

# The path through CIELAB: from a dark violet over red to a light yellow. Lightness rises all the way, so that the
# picture can be read in gray too, and by those who see no red or no green.
_LIGHTNESS = (5.0, 95.0)
_HUES = (312.0, 455.0)  # degrees; 455 is 95 after a turn
_CHROMA = 72.0  # where sRGB has so much
_INSIDE = 0.97  # share of the largest chroma that sRGB has there, which keeps corners of the gamut out
_POINTS = 2048


@functools.cache
def ramp() -> np.ndarray:
    """Return 256 colours from dark (0) to light (255); equal steps are equal distances in CIELAB.

    Eight steps are 6 units of CIELAB, to within a fifth, most of which is the rounding to 8 bits.

    Returns:
        (256, 3) uint8, RGB, read-only.
    """
    share = np.linspace(0, 1, _POINTS)
    lightness = _LIGHTNESS[0] + share * (_LIGHTNESS[1] - _LIGHTNESS[0])
    hue = np.radians(_HUES[0] + share * (_HUES[1] - _HUES[0]))
    chroma = np.linspace(0, _CHROMA, 192)
    path = np.stack(np.broadcast_arrays(lightness[:, None], hue[:, None], chroma), -1)
    rgb = _srgb(_cartesian(path))
    inside = np.all((rgb >= 0) & (rgb <= 255), axis=-1)
    largest = chroma[inside.argmin(1) - 1]  # the last one before the first that is outside
    largest = np.where(np.all(inside, axis=1), _CHROMA, largest)
    # The gamut's edge has corners; their mean over a quarter of the path has none.
    window = np.ones(_POINTS // 4)
    smooth = np.convolve(largest, window, "same") / np.convolve(np.ones(_POINTS), window, "same")
    lab = _cartesian(np.stack([lightness, hue, np.minimum(smooth, largest) * _INSIDE], -1))
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(lab, axis=0), axis=1))])
    even = np.linspace(0, length[-1], 256)
    colours = _srgb(np.stack([np.interp(even, length, lab[:, i]) for i in range(3)], -1))
    result: np.ndarray = colours.round().clip(0, 255).astype(np.uint8)
    result.flags.writeable = False
    return result


def _cartesian(path: np.ndarray) -> np.ndarray:
    """Return CIELAB of (..., 3) lightness, hue in radians, chroma."""
    lightness, hue, chroma = np.moveaxis(path, -1, 0)
    return np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], -1)


def _srgb(lab: np.ndarray) -> np.ndarray:
    """Return sRGB on the 0..255 scale of (..., 3) CIELAB (D65): the inverse of `lab_of`, also outside 0..255."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, (f - 16 / 116) * 3 * (6 / 29) ** 2) * WHITE
    linear = xyz @ np.linalg.inv(TO_XYZ).T
    curved = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, curved)
