"""Random views of images for a classification, as DeiT draws them (arXiv 2012.12877, table 9), with timm's ranges.

The steps are a random resized crop (bicubic), flip, RandAugment, and, on the normalised image, random erasing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from segnext.data.rand_augment import RandAugment

ATTEMPTS = 10  # for a crop or a rectangle that fits, as in timm
ASPECTS = (3 / 4, 4 / 3)  # of crops
ERASED_AREA = (0.02, 1 / 3)  # shares of the view
ERASED_ASPECTS = (0.3, 1 / 0.3)


class Erased(NamedTuple):
    """A rectangle of noise in a view; `noise` is (height, width, 3) float32, in units of the normalised image."""

    top: int
    left: int
    noise: np.ndarray


class ClassView(NamedTuple):
    """One random view of an image: (crop, crop, 3) uint8, and what is erased in it once it is normalised."""

    image: np.ndarray
    erased: Erased | None


@dataclass(frozen=True)
class ClassAugmentation:
    """Draws random square views of an image.

    Args:
        crop: side of the views.
        scale: range of the share of the image's area that a view shows.
        flip: mirror with probability 1/2.
        rand_augment: changes the view; None: nothing does.
        erase: probability that a rectangle becomes noise.

    Raises:
        ValueError: scale or erase is out of range.
    """

    crop: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    rand_augment: RandAugment | None = RandAugment()
    erase: float = 0.25

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"train: scale must be 0 < LOW <= HIGH <= 1 for a classification (shares of the image's area), "
                f"got {low} {high}"
            )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> ClassView:
        """Draw one view of an (H, W, 3) uint8 image; `rng` is the only source of randomness."""
        left, top, width, height = crop_box(image.shape[1], image.shape[0], self.scale, rng)
        part = Image.fromarray(image[top : top + height, left : left + width])
        view = part.resize((self.crop, self.crop), Image.Resampling.BICUBIC)
        if self.flip and rng.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment is not None:
            view = self.rand_augment(view, rng)
        erased = draw_erased(self.crop, rng) if rng.random() < self.erase else None
        return ClassView(np.asarray(view), erased)


def crop_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw the left, top, width and height of a crop; the largest in the centre if none fits."""
    for _ in range(ATTEMPTS):
        area = rng.uniform(*scale) * width * height
        aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        new_width, new_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < new_width <= width and 0 < new_height <= height:
            left = int(rng.integers(width - new_width + 1))
            return left, int(rng.integers(height - new_height + 1)), new_width, new_height
    narrow, wide = ASPECTS
    new_width, new_height = min(width, round(height * wide)), min(height, round(width / narrow))
    new_width, new_height = max(new_width, 1), max(new_height, 1)
    return (width - new_width) // 2, (height - new_height) // 2, new_width, new_height


def draw_erased(side: int, rng: np.random.Generator) -> Erased | None:
    """Draw a rectangle of noise in a view; None if none fits."""
    for _ in range(ATTEMPTS):
        area = rng.uniform(*ERASED_AREA) * side * side
        aspect = math.exp(rng.uniform(math.log(ERASED_ASPECTS[0]), math.log(ERASED_ASPECTS[1])))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < side and width < side:
            top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
            return Erased(top, left, rng.standard_normal((height, width, 3), np.float32))
    return None
