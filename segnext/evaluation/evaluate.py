"""Evaluates a model on a data set, image by image; labels always keep their native size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing, as_batch
from segnext.evaluation.boundary import BoundaryCounts
from segnext.evaluation.metrics import ConfusionMatrix
from segnext.models.finite import NonFiniteError
from segnext.predict.inference import Inference, Network, predict_mask


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        confusion: counts over the whole set.
        images: number of images.
        seconds: time, including the reading of images.
        boundary: counts of boundary regions, if they were asked for.
    """

    confusion: ConfusionMatrix
    images: int
    seconds: float
    boundary: BoundaryCounts | None = None

    def of_all(self, summed: Callable[[torch.Tensor], torch.Tensor], images: int) -> Evaluation:
        """Return the evaluation of a whole set of images, of which each process has counted its share."""
        summed(self.confusion.counts)
        if self.boundary is not None:
            self.boundary.add_others(summed)
        return replace(self, images=images)

    @property
    def headline(self) -> tuple[float, float]:
        """The mIoU and the pixel accuracy."""
        return self.confusion.miou, self.confusion.pixel_accuracy

    def summary(self, classes: tuple[str, ...]) -> dict[str, object]:
        """Return the measures as plain numbers (JSON), by class name; a measure that is 0 / 0 is None."""
        confusion = self.confusion
        by_class = {
            "iou": confusion.iou,
            "accuracy": confusion.accuracy,
            "precision": confusion.precision,
            "dice": confusion.dice,
        }
        means = {
            "miou": confusion.miou,
            "pixel_accuracy": confusion.pixel_accuracy,
            "mean_accuracy": float(confusion.accuracy.nanmean()),
            "mean_precision": float(confusion.precision.nanmean()),
            "mean_dice": float(confusion.dice.nanmean()),
            "frequency_weighted_iou": confusion.frequency_weighted_iou,
        }
        if self.boundary is not None:
            means["mean_boundary_iou"] = self.boundary.miou
            by_class["boundary_iou"] = self.boundary.iou
        return {
            **{name: _number(value) for name, value in means.items()},
            **{f"class_{name}": _named(classes, values) for name, values in by_class.items()},
            "images": self.images,
        }


@dataclass(frozen=True)
class Predicted:
    """One image of an evaluation, for those who look at each.

    Attributes:
        image_file: the image.
        label_file: its label.
        mask: (H, W) class ids that were predicted, on the CPU.
        confusion: the counts of this image alone.
    """

    image_file: Path
    label_file: Path
    mask: torch.Tensor
    confusion: ConfusionMatrix


def evaluate(
    model: Network,
    dataset: SegmentationFolder,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    inference: Inference | None = None,
    preprocessing: Preprocessing | None = None,
    boundary: bool = False,
    look: Callable[[Predicted], None] | None = None,
    after_image: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Predict every image of a data set and count.

    Args:
        model: in evaluation mode, on `device`, or deployed.
        dataset: images and labels; one image at a time, so sizes may differ.
        device: where images go.
        dtype: float32, or bfloat16 for autocast (a deployed model has its own).
        inference: how an image goes through the network; by default the whole image once.
        preprocessing: mean, std, image size, and the range of images of more than 8 bits if `dataset` has none; by
            default those of the model's metadata, as in prediction.
        boundary: count boundary regions too, at the cost of some milliseconds per image.
        look: called with each image's prediction and counts.
        after_image: called after each image, for a progress bar.

    Raises:
        ValueError: a label does not fit its image or holds unknown ids (the file is named).
        NonFiniteError: logits are NaN or Inf; the message names the image, and the weight it came from.
    """
    device = torch.device(device)
    if preprocessing is None:
        preprocessing = Preprocessing.of(getattr(model, "metadata", {}))
    dataset = dataset.read_as(preprocessing)
    inference = (inference or Inference()).for_weights(preprocessing.short_side)
    confusion = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
    edges = BoundaryCounts(dataset.num_classes, dataset.ignore_index) if boundary else None
    start = time.perf_counter()
    for index in range(len(dataset)):
        image, label = dataset[index]
        images = as_batch(image).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            ids = _predicted(model, images, preprocessing, inference, dataset.pairs[index][0])
        mask, true = ids[0].cpu(), torch.from_numpy(label)
        own = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
        own.update(mask, true)
        confusion.counts += own.counts
        if edges is not None:
            edges.update(mask, true)
        if look is not None:
            look(Predicted(*dataset.pairs[index], mask, own))
        after_image()
    return Evaluation(confusion, len(dataset), time.perf_counter() - start, edges)


def _predicted(
    model: Network, images: torch.Tensor, preprocessing: Preprocessing, inference: Inference, file: Path
) -> torch.Tensor:
    try:
        return predict_mask(model, images, preprocessing, inference)
    except NonFiniteError as error:
        raise NonFiniteError(f"{file}: {error}") from None


def _named(classes: tuple[str, ...], values: torch.Tensor) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(classes, values.tolist(), strict=True)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
