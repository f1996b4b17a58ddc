"""The confusion matrix of a segmentation and its measures."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class ConfusionMatrix:
    """Counts pairs of true and predicted class over all labelled pixels of a set.

    Measures that are 0 / 0, such as the IoU of a class that neither occurs nor is predicted, are NaN and are
    left out of means. So are those of a class whose id is ignored.

    Args:
        num_classes: number of classes K.
        ignore_index: label that is not counted; it may be the id of a class.

    Attributes:
        counts: (K, K) int64, on the CPU; rows are true classes.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        # The counts are small and live on the CPU, whatever the default device is.
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device="cpu")

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count an image or a batch.

        Args:
            prediction: (..., H, W) class ids of any integer type, 0..K-1.
            label: same shape, 0..K-1 or `ignore_index`.

        Raises:
            ValueError: the shapes differ or an id is out of range. TypeError: ids are no integers.
        """
        if prediction.shape != label.shape:
            raise ValueError(
                f"ConfusionMatrix: prediction must have the label's shape {tuple(label.shape)}, "
                f"got {tuple(prediction.shape)}"
            )
        for name, given in (("prediction", prediction), ("label", label)):
            if given.is_floating_point() or given.is_complex():
                raise TypeError(
                    f"ConfusionMatrix: {name} must be class ids of an integer type, got {given.dtype}; take the argmax"
                )
        label = label.to(torch.int64)  # a label of 8 bits would take -100 for 156
        counted = label != self.ignore_index
        true = label[counted]
        predicted = prediction[counted].to(device=label.device, dtype=torch.int64)
        for name, ids in (("label", true), ("prediction", predicted)):
            if not ids.numel():
                continue
            lowest, highest = int(ids.min()), int(ids.max())
            if lowest < 0 or highest >= self.num_classes:
                raise ValueError(
                    f"ConfusionMatrix: ids of {name} must be 0..{self.num_classes - 1}, "
                    f"got {lowest}..{highest}; map the ids or mark them {self.ignore_index}"
                )
        pairs = torch.bincount(true * self.num_classes + predicted, minlength=self.num_classes**2)
        self.counts += pairs.view_as(self.counts).cpu()

    @property
    def iou(self) -> Tensor:
        """(K,) float64: the intersection over union of each class."""
        hits, true, predicted = self._sums()
        return self._without_ignored(hits / (true + predicted - hits))

    @property
    def accuracy(self) -> Tensor:
        """(K,) float64: the fraction of each class's pixels that were found, also called recall."""
        hits, true, _ = self._sums()
        return hits / true

    @property
    def precision(self) -> Tensor:
        """(K,) float64: the fraction of the pixels predicted as each class that are of it."""
        hits, _, predicted = self._sums()
        return self._without_ignored(hits / predicted)

    @property
    def dice(self) -> Tensor:
        """(K,) float64: the Dice coefficient of each class, which is F1: the harmonic mean of precision and recall.

        A class that occurs and is never predicted, or the other way round, has 0, although one of the two is 0 / 0.
        """
        hits, true, predicted = self._sums()
        return self._without_ignored(2 * hits / (true + predicted))

    @property
    def miou(self) -> float:
        """The mean IoU of the classes that occur or are predicted; NaN if there are none."""
        return float(self.iou.nanmean())

    @property
    def frequency_weighted_iou(self) -> float:
        """The mean of the IoUs, each weighted by its class's share of the labelled pixels; NaN if there are none."""
        _, true, _ = self._sums()
        occurs = true > 0  # an absent class has no weight, whatever its IoU is
        return float((self.iou[occurs] * true[occurs]).sum() / true.sum())

    @property
    def pixel_accuracy(self) -> float:
        """The fraction of labelled pixels that are right."""
        hits, true, _ = self._sums()
        return float(hits.sum() / true.sum())

    def _without_ignored(self, measure: Tensor) -> Tensor:
        """Return a measure of each class with NaN for one that is ignored, in place.

        Its pixels count nowhere, so that a prediction of it is no false positive.
        """
        if 0 <= self.ignore_index < self.num_classes:
            measure[self.ignore_index] = math.nan
        return measure

    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        counts = self.counts.to(torch.float64)
        return counts.diagonal(), counts.sum(1), counts.sum(0)
