"""Photometric distortion of the published recipes, bit for bit as mmsegmentation and OpenCV compute it.

OpenCV turns 8-bit RGB into HSV in integers, with the hue in 0..179, and back in float32. Every step of the distortion
goes back to 8 bits, and what is not whole is cut off there and not rounded. (OpenCV itself rounds in the last columns,
beyond a multiple of its vectors' length, when it comes from HSV: there it depends on the CPU.)

Source: PhotoMetricDistortion of mmsegmentation, after SSD (arXiv 1512.02325); modules/imgproc/src/color_hsv of OpenCV.
Nothing of their code is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

BRIGHTNESS = 32.0
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = 18  # of 180; -18 can be drawn, 18 cannot
HUES = 180

_SHIFT = 12  # bits of the fractions in OpenCV's integers
_SECTOR = np.float32(6 / HUES)
# Which of four shares (whole, least, falling, rising) red, green and blue have, in each sixth of the hues.
_RED, _GREEN, _BLUE = (0, 2, 1, 1, 3, 0), (3, 0, 0, 2, 1, 1), (1, 1, 3, 0, 0, 2)


@dataclass(frozen=True)
class Distortion:
    """One drawn distortion; what is None is not done.

    Attributes:
        brightness: added to each value.
        contrast: each value is multiplied by this.
        contrast_first: whether contrast comes before the colours are changed, or after.
        saturation: the saturation is multiplied by this.
        hue: added to the hue, a whole number of 180ths of the circle.
    """

    brightness: float | None = None
    contrast: float | None = None
    contrast_first: bool = True
    saturation: float | None = None
    hue: int | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Distortion:
        """Draw one; each of the four changes is made with probability 1/2."""
        brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS) if rng.random() < 0.5 else None
        contrast_first = rng.random() < 0.5
        contrast = rng.uniform(*CONTRAST) if rng.random() < 0.5 else None
        saturation = rng.uniform(*SATURATION) if rng.random() < 0.5 else None
        hue = int(rng.integers(-HUE, HUE)) if rng.random() < 0.5 else None
        return cls(brightness, contrast, contrast_first, saturation, hue)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the (H, W, 3) uint8 RGB image distorted; the image itself stays as it is.

        Images of another number of bands have no hue and no saturation, which are left alone.
        """
        levels = np.arange(256, dtype=np.uint8)
        if self.brightness is not None:
            levels = _scaled(levels, 1.0, self.brightness)
        if self.contrast is not None and self.contrast_first:
            levels = _scaled(levels, self.contrast, 0.0)
        # Brightness and contrast act on each value alone, so one look-up in a table does both.
        image = levels[image]
        has_colours = image.shape[2] == 3
        if self.saturation is not None and has_colours:
            hue, saturation, value = rgb_to_hsv(image)
            saturation = _scaled(np.arange(256), self.saturation, 0.0)[saturation]
            image = hsv_to_rgb(hue, saturation, value)
        if self.hue is not None and has_colours:
            hue, saturation, value = rgb_to_hsv(image)
            image = hsv_to_rgb((hue + self.hue) % HUES, saturation, value)
        if self.contrast is not None and not self.contrast_first:
            image = _scaled(np.arange(256), self.contrast, 0.0)[image]
        return image


def _scaled(levels: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """Return levels * factor + offset in 8 bits; fractions are cut off."""
    scaled = levels.astype(np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _shares(whole: float) -> np.ndarray:
    """Return whole / i as a fixed-point number for each i of 0..255, and 0 for 0."""
    return np.rint(np.r_[0.0, whole * (1 << _SHIFT) / np.arange(1, 256)]).astype(np.int32)


_OF_VALUE, _OF_RANGE = _shares(255), _shares(HUES / 6)


def rgb_to_hsv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hue 0..179 (int32), saturation 0..255 (int32) and value 0..255 (uint8) of an (H, W, 3) uint8 image."""
    red, green, blue = np.moveaxis(image, 2, 0)
    value = np.maximum(np.maximum(red, green), blue)
    spread = (value - np.minimum(np.minimum(red, green), blue)).astype(np.int32)
    half = 1 << (_SHIFT - 1)
    saturation = (spread * _OF_VALUE[value] + half) >> _SHIFT
    r, g, b = (channel.astype(np.int16) for channel in (red, green, blue))
    turn = np.where(value == red, g - b, np.where(value == green, b - r + 2 * spread, r - g + 4 * spread))
    hue = (turn * _OF_RANGE[spread] + half) >> _SHIFT
    hue[hue < 0] += HUES
    return hue, saturation, value


def hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the (H, W, 3) uint8 RGB image of what `rgb_to_hsv` gives."""
    height = value.astype(np.float32) * np.float32(1 / 255)
    levels = _shares_of_value()[hue, saturation]
    levels *= height[..., None]
    levels *= 255
    return levels.astype(np.uint8)


@cache
def _shares_of_value() -> np.ndarray:
    """Return the share of the value that red, green and blue have, (180, 256, 3), for each hue and saturation."""
    position = np.arange(HUES, dtype=np.float32) * _SECTOR
    sector = position.astype(np.intp)
    inside = (position - sector.astype(np.float32))[:, None]
    colour = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
    # In float64, since OpenCV multiplies and subtracts with a single rounding.
    four = [
        1 - colour.astype(np.float64) * share for share in (np.float64(0), 1, inside, np.float32(1) - inside)
    ]
    shares = np.stack(np.broadcast_arrays(*four)).astype(np.float32)
    rows = np.arange(HUES)
    return np.stack([shares[np.array(order)[sector], rows] for order in (_RED, _GREEN, _BLUE)], axis=2)
