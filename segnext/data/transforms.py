"""Training augmentation of the SegNeXt protocol on uint8 arrays: numpy and Pillow only.

The steps are a random resize, a random crop in which no class takes more than 75 %, flip, photometric distortion
and padding. Resize and crop are one step here: only the crop is ever resampled (a 224x224 crop costs about 3 ms).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from segnext.data.preprocessing import Preprocessing

CROP_ATTEMPTS = 10  # as in mmsegmentation: after this many attempts, the last crop is used whatever it shows
BRIGHTNESS = 32  # the four ranges of mmsegmentation's PhotoMetricDistortion, which the official recipes use
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = 18 / 180  # fraction of the full circle, to either side


@dataclass(frozen=True)
class Augmentation:
    """Draws random views of an image and its label map, `crop` x `crop` pixels each.

    Args:
        crop: side of the result; smaller views are padded below and to the right, the image with the
            mean colour of `preprocessing` and the label with `ignore_index`.
        scale: range of the resize ratio, drawn uniformly; relative to the size that `preprocessing` gives the
            image, which is its own unless a short side is named.
        max_class_share: crops in which one class takes at least this share are drawn again.
        flip: mirror with probability 1/2.
        distort: change brightness, contrast, saturation and hue, each with probability 1/2.
        ignore_index: label of padding.
        preprocessing: the input that the trained network expects.
    """

    crop: int
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    flip: bool = True
    distort: bool = True
    ignore_index: int = 255
    preprocessing: Preprocessing = Preprocessing()

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise ValueError(f"Augmentation: scale must be 0 < LOW <= HIGH, got {low} {high}")
        if self.crop < 1:
            raise ValueError(f"Augmentation: crop must be at least 1 pixel, got {self.crop}")

    def __call__(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw one view.

        Args:
            image: (H, W, 3) uint8.
            label: (H, W) uint8.
            rng: the only source of randomness.

        Returns:
            (crop, crop, 3) uint8 and (crop, crop) uint8.
        """
        view, ids = self._resize_and_crop(image, label, rng)
        if self.flip and rng.random() < 0.5:
            view, ids = view[:, ::-1], ids[:, ::-1]
        if self.distort:
            view = photometric_distortion(view, rng)
        return self._pad(view, ids)

    def _resize_and_crop(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        height, width = label.shape
        ratio = rng.uniform(*self.scale) * self.preprocessing.scale(height, width)
        full_height, full_width = max(1, round(height * ratio)), max(1, round(width * ratio))
        rows, columns = min(self.crop, full_height), min(self.crop, full_width)
        step_y, step_x = height / full_height, width / full_width
        for _ in range(CROP_ATTEMPTS):
            top = int(rng.integers(full_height - rows + 1))
            left = int(rng.integers(full_width - columns + 1))
            source_rows = ((top + np.arange(rows) + 0.5) * step_y).astype(np.intp)
            source_columns = ((left + np.arange(columns) + 0.5) * step_x).astype(np.intp)
            ids = label[source_rows[:, None], source_columns]
            if self._is_varied(ids):
                break
        box = (
            left * step_x,
            top * step_y,
            min((left + columns) * step_x, width),
            min((top + rows) * step_y, height),
        )
        # Pillow resizes the crop's box alone, and smooths what becomes smaller; evaluation does not.
        view = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR, box=box)
        return np.asarray(view), ids

    def _is_varied(self, ids: np.ndarray) -> bool:
        counts = np.bincount(ids.reshape(-1), minlength=256)
        counts[self.ignore_index] = 0
        return bool(counts.max() < self.max_class_share * counts.sum())

    def _pad(self, view: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = ids.shape
        colour = self.preprocessing.padding
        image = np.empty((self.crop, self.crop, 3), np.uint8)
        image[rows:], image[:rows, columns:] = colour, colour
        image[:rows, :columns] = view
        label = np.full((self.crop, self.crop), self.ignore_index, np.uint8)
        label[:rows, :columns] = ids
        return image, label


def photometric_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast (before or after the colours), saturation and hue, each with probability 1/2.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: source of randomness.

    Returns:
        (H, W, 3) uint8.

    Source: PhotoMetricDistortion of mmsegmentation, after SSD (arXiv 1512.02325).
    """
    levels = np.arange(256, dtype=np.float32)
    if rng.random() < 0.5:
        levels = np.clip(levels + rng.uniform(-BRIGHTNESS, BRIGHTNESS), 0, 255)
    contrast = rng.uniform(*CONTRAST) if rng.random() < 0.5 else 1.0
    contrast_first = rng.random() < 0.5
    if contrast_first:
        levels = levels * contrast
    # Brightness and contrast act on each value alone, so one look-up in a table does both.
    image = _to_bytes(levels)[image]
    saturation = rng.uniform(*SATURATION) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-HUE, HUE) if rng.random() < 0.5 else 0.0
    if saturation != 1.0 or hue != 0.0:
        hsv = np.array(Image.fromarray(image).convert("HSV"))
        hsv[..., 0] += np.uint8(round(hue * 256) % 256)  # wraps around, as angles do
        hsv[..., 1] = _to_bytes(np.arange(256) * saturation)[hsv[..., 1]]
        image = np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))
    if not contrast_first:
        image = _to_bytes(np.arange(256) * contrast)[image]
    return image


def _to_bytes(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)
