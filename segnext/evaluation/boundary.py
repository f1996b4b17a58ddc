"""Boundary IoU: how well the outlines of classes are found, whatever the size of what they enclose.

Source: Boundary IoU (arXiv 2103.16562). A class's boundary region is that part of its mask which lies within distance d
of the mask's outline; the measure is the IoU of the regions of label and prediction. d is 2 % of the image's diagonal,
as in the paper; its erosion is repeated with a square of 3x3, so that distances are those of a chess king.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

DIAGONAL_SHARE = 0.02
_IGNORED = -1


class BoundaryCounts:
    """Counts the pixels of boundary regions over all images of a set; a class's measure comes from its sums.

    Ignored pixels of the label count nowhere: label and prediction have the same hole there, which has an outline. The
    border of the image is an outline too, as in the paper.

    Args:
        num_classes: number of classes K.
        ignore_index: label that is not counted; it may be the id of a class.

    Attributes:
        hits: (K,) int64, pixels in both regions of a class.
        true: (K,) int64, pixels in the label's region.
        predicted: (K,) int64, pixels in the prediction's region.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.hits, self.true, self.predicted = np.zeros((3, num_classes), np.int64)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count one image.

        Args:
            prediction: (H, W) class ids, 0..K-1; a `ConfusionMatrix` has checked both.
            label: (H, W), 0..K-1 or `ignore_index`.
        """
        true = label.cpu().numpy().astype(np.int16)
        ignored = (label == self.ignore_index).cpu().numpy()
        predicted = prediction.cpu().numpy().astype(np.int16)
        true[ignored] = predicted[ignored] = _IGNORED
        distance = boundary_distance(*true.shape)
        in_true = boundary_region(true, distance) & ~ignored
        in_predicted = boundary_region(predicted, distance) & ~ignored
        self.true += self._count(true[in_true])
        self.predicted += self._count(predicted[in_predicted])
        self.hits += self._count(true[in_true & in_predicted & (true == predicted)])

    def add_others(self, summed: Callable[[Tensor], Tensor]) -> None:
        """Make the counts those of all processes; `summed` turns a tensor into its sum over them, in place."""
        for counts in (self.hits, self.true, self.predicted):
            summed(torch.from_numpy(counts))

    @property
    def iou(self) -> Tensor:
        """(K,) float64: the boundary IoU of each class; NaN where it is 0 / 0, and of a class that is ignored."""
        hits, true, predicted = (torch.from_numpy(c).double() for c in (self.hits, self.true, self.predicted))
        iou = hits / (true + predicted - hits)
        if 0 <= self.ignore_index < self.num_classes:
            iou[self.ignore_index] = math.nan
        return iou

    @property
    def miou(self) -> float:
        """The mean over the classes that occur or are predicted; NaN if there are none."""
        return float(self.iou.nanmean())

    def _count(self, ids: np.ndarray) -> np.ndarray:
        return np.bincount(ids, minlength=self.num_classes)


def boundary_distance(height: int, width: int) -> int:
    """Return the distance in pixels that is 2 % of an image's diagonal, at least 1."""
    return max(1, round(DIAGONAL_SHARE * math.hypot(height, width)))


def boundary_region(ids: np.ndarray, distance: int) -> np.ndarray:
    """Return the union of the boundary regions of all classes: where another id, or no pixel, is within `distance`.

    One erosion does for all classes: a pixel is inside its class if the ids around it are all equal, that is, if their
    maximum is their minimum.

    Args:
        ids: (H, W) class ids.
        distance: pixels, in the sense of a chess king.

    Returns:
        (H, W) bool.
    """
    region = np.ones(ids.shape, bool)
    side = 2 * distance + 1
    if min(ids.shape) >= side:  # else every pixel is near the border
        inner = (slice(distance, -distance), slice(distance, -distance))
        region[inner] = _around(ids, side, np.maximum) != _around(ids, side, np.minimum)
    return region


def _around(
    ids: np.ndarray, side: int, extreme: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the extreme of each square of `side` pixels that fits into the image, row-wise then column-wise."""
    for _ in range(2):
        reach = 1  # pixels that each entry covers; it doubles, so that a large square is no slower
        while reach < side:
            step = min(reach, side - reach)
            ids = extreme(ids[:-step], ids[step:])
            reach += step
        ids = ids.T
    return ids
