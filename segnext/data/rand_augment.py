"""RandAugment of images (arXiv 1909.13719) with the operations and ranges of timm's policy `rand-m9-mstd0.5-inc1`.

Each operation is applied with probability 1/2, at a magnitude of 0 to 10 that is drawn from a normal distribution; all
of them get stronger with it. timm by Ross Wightman (Apache-2.0) defines the ranges; nothing of its code is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

LARGEST = 10.0  # magnitude
PROBABILITY = 0.5
SOLARIZE_BELOW = 128
LARGEST_SHARE = 0.45  # of the image's side, by which it is moved

_Operation = Callable[[Image.Image, float, float, tuple[int, int, int]], Image.Image]


@dataclass(frozen=True)
class RandAugment:
    """Applies random operations one after another.

    Args:
        magnitude: mean strength of the operations, 0 to 10.
        deviation: standard deviation of the strength.
        operations: how many are drawn, with replacement.
        fill: (red, green, blue) of pixels that come from outside of the image.
    """

    magnitude: float = 9.0
    deviation: float = 0.5
    operations: int = 2
    fill: tuple[int, int, int] = (124, 116, 104)  # the mean of ImageNet

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return a changed RGB image of the same size; `rng` is the only source of randomness."""
        for index in rng.integers(len(OPERATIONS), size=self.operations):
            operation = tuple(OPERATIONS.values())[index]
            is_applied = rng.random() < PROBABILITY
            strength = float(np.clip(rng.normal(self.magnitude, self.deviation), 0, LARGEST)) / LARGEST
            sign = -1.0 if rng.random() < 0.5 else 1.0
            if is_applied:
                image = operation(image, strength, sign, self.fill)
        return image


def _auto_contrast(image: Image.Image, *_: object) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, *_: object) -> Image.Image:
    return ImageOps.equalize(image)


def _invert(image: Image.Image, *_: object) -> Image.Image:
    return ImageOps.invert(image)


def _rotate(image: Image.Image, strength: float, sign: float, fill: tuple[int, int, int]) -> Image.Image:
    return image.rotate(30 * strength * sign, Image.Resampling.BICUBIC, fillcolor=fill)


def _posterize(image: Image.Image, strength: float, *_: object) -> Image.Image:
    shift = 4 + int(4 * strength)  # 8 at the largest strength, which is black; Pillow's posterize refuses it
    return image.point([value >> shift << shift for value in range(256)] * 3)


def _solarize(image: Image.Image, strength: float, *_: object) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(256 * strength))


def _solarize_add(image: Image.Image, strength: float, *_: object) -> Image.Image:
    added = int(110 * strength)
    return image.point(
        [min(255, value + added) if value < SOLARIZE_BELOW else value for value in range(256)] * 3
    )


def _enhance(
    kind: Callable[[Image.Image], ImageEnhance._Enhance],
    image: Image.Image,
    strength: float,
    sign: float,
    fill: tuple[int, int, int],
) -> Image.Image:
    return kind(image).enhance(max(0.1, 1 + 0.9 * strength * sign))


def _move(
    shear: tuple[float, float],
    shift: tuple[float, float],
    image: Image.Image,
    strength: float,
    sign: float,
    fill: tuple[int, int, int],
) -> Image.Image:
    """Shear along x and y, and shift by shares of the image's sides, each times the strength."""
    x, y = (sign * strength * share for share in shear)
    left, top = (sign * strength * share * side for share, side in zip(shift, image.size, strict=True))
    matrix = (1, x, left, y, 1, top)
    resampling, affine = Image.Resampling.BICUBIC, Image.Transform.AFFINE
    return image.transform(image.size, affine, matrix, resampling, fillcolor=fill)


OPERATIONS: dict[str, _Operation] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "colour": partial(_enhance, ImageEnhance.Color),
    "contrast": partial(_enhance, ImageEnhance.Contrast),
    "brightness": partial(_enhance, ImageEnhance.Brightness),
    "sharpness": partial(_enhance, ImageEnhance.Sharpness),
    "shear_x": partial(_move, (0.3, 0.0), (0.0, 0.0)),
    "shear_y": partial(_move, (0.0, 0.3), (0.0, 0.0)),
    "translate_x": partial(_move, (0.0, 0.0), (LARGEST_SHARE, 0.0)),
    "translate_y": partial(_move, (0.0, 0.0), (0.0, LARGEST_SHARE)),
}
