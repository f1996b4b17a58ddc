"""Evaluates a model on a data set, image by image; labels always keep their native size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing, as_batch
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
    """

    confusion: ConfusionMatrix
    images: int
    seconds: float

    def summary(self, classes: tuple[str, ...]) -> dict[str, object]:
        """Return the measures as plain numbers (JSON), by class name; a measure that is 0 / 0 is None."""
        confusion = self.confusion
        iou, accuracy = confusion.iou.tolist(), confusion.accuracy.tolist()
        return {
            "miou": _number(confusion.miou),
            "pixel_accuracy": _number(confusion.pixel_accuracy),
            "mean_accuracy": _number(float(confusion.accuracy.nanmean())),
            "class_iou": {name: _number(value) for name, value in zip(classes, iou, strict=True)},
            "class_accuracy": {name: _number(value) for name, value in zip(classes, accuracy, strict=True)},
            "images": self.images,
        }


def evaluate(
    model: Network,
    dataset: SegmentationFolder,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    inference: Inference | None = None,
    preprocessing: Preprocessing | None = None,
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
    start = time.perf_counter()
    for index in range(len(dataset)):
        image, label = dataset[index]
        images = as_batch(image).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            ids = _predicted(model, images, preprocessing, inference, dataset.pairs[index][0])
        confusion.update(ids[0].cpu(), torch.from_numpy(label))
        after_image()
    return Evaluation(confusion, len(dataset), time.perf_counter() - start)


def _predicted(
    model: Network, images: torch.Tensor, preprocessing: Preprocessing, inference: Inference, file: Path
) -> torch.Tensor:
    try:
        return predict_mask(model, images, preprocessing, inference)
    except NonFiniteError as error:
        raise NonFiniteError(f"{file}: {error}") from None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
