"""Evaluates an image classifier: top-1 and top-5, counted over the whole set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from segnext.data.batches import ahead
from segnext.data.classification import ClassifiedImages, centre_crop
from segnext.data.preprocessing import Preprocessing
from segnext.models import MSCAN
from segnext.models.finite import NonFiniteError, expect_finite

SIDE = 224
"""Side of the images that the published encoders are trained and evaluated with."""
BATCH = 32  # images at once; the counts do not depend on it
WORKERS = 4  # threads that decode and resize


@dataclass(frozen=True)
class Accuracy:
    """The result of `evaluate_classifier`.

    Attributes:
        hits: images whose class had the highest logit, and one of the five highest.
        images: number of images.
        seconds: time, including the reading of images.
    """

    hits: tuple[int, int]
    images: int
    seconds: float

    @property
    def top1(self) -> float:
        """The fraction of images whose class had the highest logit."""
        return self.hits[0] / self.images

    @property
    def top5(self) -> float:
        """The fraction of images whose class had one of the five highest logits."""
        return self.hits[1] / self.images

    @property
    def headline(self) -> tuple[float, float]:
        """Top-1 and top-5."""
        return self.top1, self.top5

    def of_all(self, summed: Callable[[Tensor], Tensor], images: int) -> Accuracy:
        """Return the accuracy over a whole set of images, of which each process has counted its share."""
        top1, top5 = summed(torch.tensor(self.hits, device="cpu")).tolist()
        return replace(self, hits=(top1, top5), images=images)

    def summary(self, classes: tuple[str, ...] = ()) -> dict[str, object]:
        """Return the measures as plain numbers (JSON); no measure is of a single class."""
        return {
            "top1": round(self.top1, 6),
            "top5": round(self.top5, 6),
            "hits_top1": self.hits[0],
            "hits_top5": self.hits[1],
            "images": self.images,
        }


def rgb_preprocessing(what: str, model: MSCAN) -> Preprocessing:
    """Return the preprocessing of a model's metadata; class folders hold photographs, so it must be that of RGB.

    Args:
        what: begins the message.
        model: with or without metadata.

    Raises:
        ValueError: the model takes other channels.
    """
    preprocessing = Preprocessing.of(model.metadata)
    if model.config.in_channels != 3 or len(preprocessing.mean) != 3 or preprocessing.bands is not None:
        raise ValueError(
            f"{what}: model must take the 3 channels of RGB for class folders, got in_channels="
            f"{model.config.in_channels} with {len(preprocessing.mean)} means; give it the first convolution of RGB"
        )
    return preprocessing


def ranks_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before each image's own; of equal logits the smaller id comes first.

    Args:
        logits: (N, K).
        labels: (N,) class ids.

    Returns:
        (N,) int64, 0 for a hit of top-1.
    """
    own = logits.gather(1, labels[:, None])
    is_smaller = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & is_smaller)).sum(1)


@torch.inference_mode()
def evaluate_classifier(
    model: MSCAN,
    images: ClassifiedImages,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    preprocessing: Preprocessing | None = None,
    side: int = SIDE,
    after_batch: Callable[[int], None] = lambda images: None,
) -> Accuracy:
    """Classify the centre of every image of a data set (`centre_crop`), and count.

    Args:
        model: in evaluation mode, on `device`, with a head.
        images: the data set.
        device: where images go.
        dtype: float32, or bfloat16 for autocast.
        preprocessing: mean and std; by default those of the model's metadata.
        side: of the crops.
        after_batch: called after each batch with its number of images, for a progress bar.

    Raises:
        ValueError: the model takes other channels than RGB.
        segnext.data.images.ImageError: an image cannot be read; the message names it.
        NonFiniteError: logits are NaN or Inf; the message names the image, and the weight it came from.
    """
    device = torch.device(device)
    preprocessing = preprocessing or rgb_preprocessing("val", model)
    hits, start = torch.zeros(2, dtype=torch.int64), time.perf_counter()

    def positions(step: int) -> range:
        return range(step * BATCH, min((step + 1) * BATCH, len(images)))

    def sample(index: int) -> np.ndarray:
        return centre_crop(images[index][0], side)

    def collate(step: int, crops: list[np.ndarray]) -> tuple[range, Tensor]:
        return positions(step), torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)

    steps = range(-(-len(images) // BATCH))
    for indices, batch in ahead(steps, positions, sample, collate, WORKERS):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(preprocessing(batch, device=device))
        _expect_finite(model, logits, images, indices)
        labels = torch.from_numpy(images.labels[indices.start : indices.stop]).to(device)
        ranks = ranks_of(logits, labels)
        hits += torch.stack([(ranks < most).sum() for most in (1, 5)]).cpu()
        after_batch(len(indices))
    top1, top5 = hits.tolist()
    return Accuracy((top1, top5), len(images), time.perf_counter() - start)


def _expect_finite(model: MSCAN, logits: Tensor, images: ClassifiedImages, indices: range) -> None:
    try:
        expect_finite(logits, model.config.architecture, model.state_dict)
    except NonFiniteError as error:
        first = int((~logits.isfinite().all(1)).nonzero()[0])
        raise NonFiniteError(f"{images.file(indices[first])}: {error}") from None
