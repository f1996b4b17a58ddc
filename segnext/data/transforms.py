"""The training augmentation of the published recipes on uint8 arrays, bit for bit as mmsegmentation computes it.

The steps are a random resize, a random crop in which one class takes less than 75 %, flip, photometric distortion and
padding. Resize and crop are one step here: only the pixels of the crop are computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segnext.data.photometric import Distortion
from segnext.data.preprocessing import LONGEST_RATIO, Preprocessing
from segnext.data.resizing import nearest, resize_window

CROP_ATTEMPTS = 10  # as in mmsegmentation: after this many attempts, one more crop is drawn and used as it is


class View(NamedTuple):
    """One random view of an image and its label map.

    Attributes:
        image: (crop, crop, C) uint8.
        label: (crop, crop) uint8.
        size: height and width of what it shows, in the upper left corner; the rest is padding.
    """

    image: np.ndarray
    label: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class Augmentation:
    """Draws random views of an image and its label map, `crop` x `crop` pixels each.

    Args:
        crop: side of the result; smaller views are padded below and to the right, the image with 0 (which
            `segnext.data.batches.Batch` makes 0 of the normalised image) and the label with `ignore_index`.
        scale: range of the resize ratio, drawn uniformly; relative to the size that `preprocessing` gives the
            image, which is its own unless a short side is named.
        max_class_share: crops in which one class takes at least this share are drawn again.
        flip: mirror with probability 1/2.
        distort: change brightness, contrast, saturation and hue, see `segnext.data.photometric`.
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

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> View:
        """Draw one view.

        Args:
            image: (H, W, C) uint8.
            label: (H, W) uint8.
            rng: the only source of randomness.
        """
        view, ids = self._resize_and_crop(image, label, rng)
        if self.flip and rng.random() < 0.5:
            view, ids = view[:, ::-1], ids[:, ::-1]
        if self.distort:
            view = Distortion.draw(rng)(view)  # of other bands than RGB, brightness and contrast alone
        return View(*self._pad(view, ids), ids.shape)

    def resized(self, height: int, width: int, ratio: float) -> tuple[int, int]:
        """Return the size that an image gets at a ratio: the largest, with its aspect, that fits into the scaled box.

        The box is 4 short sides long and one wide (ADE20K: 2048 x 512), or the image itself without a short side.
        """
        short, long = min(height, width), max(height, width)
        side = self.preprocessing.short_side
        box_long, box_short = (long, short) if side is None else (LONGEST_RATIO * side, side)
        factor = min(int(box_long * ratio) / long, int(box_short * ratio) / short)
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def _resize_and_crop(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        old_height, old_width = label.shape
        height, width = self.resized(old_height, old_width, rng.uniform(*self.scale))
        rows, columns = min(self.crop, height), min(self.crop, width)
        source_rows, source_columns = nearest(old_height, height), nearest(old_width, width)

        def draw() -> tuple[int, int, np.ndarray]:
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            return (
                top,
                left,
                label[source_rows[top : top + rows, None], source_columns[left : left + columns]],
            )

        top, left, ids = draw()
        for _ in range(CROP_ATTEMPTS):
            if self._is_varied(ids):
                break
            top, left, ids = draw()
        view = resize_window(image, (height, width), slice(top, top + rows), slice(left, left + columns))
        return view, ids

    def _is_varied(self, ids: np.ndarray) -> bool:
        counts = np.bincount(ids.reshape(-1), minlength=256)
        counts[self.ignore_index] = 0
        return bool(counts.max() < self.max_class_share * counts.sum())

    def _pad(self, view: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        missing = ((0, self.crop - ids.shape[0]), (0, self.crop - ids.shape[1]))
        return np.pad(view, (*missing, (0, 0))), np.pad(ids, missing, constant_values=self.ignore_index)
