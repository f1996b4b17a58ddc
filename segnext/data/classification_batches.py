"""Batches of a classification are pure functions of (seed, step), as those of a segmentation.

The n-th sample of a run is image `permutation(epoch)[n mod size // repeats]` in a view that is drawn with (seed, n);
how a process mixes its share of a batch is drawn with (seed, step, rank).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from segnext.data.batches import Batch, ahead
from segnext.data.classification import ClassifiedImages
from segnext.data.classification_views import ClassAugmentation, ClassView, Erased
from segnext.data.mixing import Mix, Mixing
from segnext.data.preprocessing import Preprocessing
from segnext.one_line import one_line

_SHUFFLE, _AUGMENT, _MIX = 0, 1, 2  # separate streams of random numbers under one seed

_Sample = tuple[ClassView, int, Path]


@dataclass(frozen=True)
class ClassificationBatch(Batch):
    """The input of one step; its labels are probabilities, (N, classes) float32.

    Attributes:
        erased: the rectangle that is erased in each image; None: none.
        mix: how the images are mixed; the labels are so already.
    """

    erased: tuple[Erased | None, ...]
    mix: Mix

    def normalised(
        self, preprocessing: Preprocessing, device: torch.device | str | None = None
    ) -> torch.Tensor:
        """Return the network's input, (N, 3, H, W) float32, erased and mixed."""
        images = preprocessing(self.images, device=device)
        for image, erased in zip(images, self.erased, strict=True):
            if erased is not None:
                noise = torch.from_numpy(erased.noise).permute(2, 0, 1).to(images.device)
                rows = slice(erased.top, erased.top + noise.shape[1])
                image[:, rows, erased.left : erased.left + noise.shape[2]] = noise
        return self.mix.images(images)


class ClassificationBatches:
    """Draws augmented samples from endless shuffled epochs.

    An epoch has as many samples as there are images. With `repeats`, each image is seen that often in a row, in other
    views, and so a share of the images in each epoch (repeated augmentation, arXiv 1901.09335).

    Args:
        images: where samples come from.
        num_classes: number of classes.
        augmentation: draws a random view of each image.
        mixing: draws how each batch is mixed.
        batch_size: samples per batch.
        seed: decides everything that is random.
        repeats: views of an image in a row.
        smoothing: share of the label that is spread over all classes.
        rank: number of this process, from 0; it gets its share of each batch, and mixes its images alone.
        ranks: number of processes; `batch_size` is a multiple of it.

    Attributes:
        skips: whether an image that cannot be read gives way to the next one of its epoch.
        skipped: such images, and why.
    """

    def __init__(
        self,
        images: ClassifiedImages,
        num_classes: int,
        augmentation: ClassAugmentation,
        mixing: Mixing,
        batch_size: int,
        seed: int,
        *,
        repeats: int = 3,
        smoothing: float = 0.1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.images = images
        self.num_classes = num_classes
        self.augmentation = augmentation
        self.mixing = mixing
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = repeats
        self.smoothing = smoothing
        self.skips = False
        self.skipped: dict[Path, str] = {}
        self.rank, self.share = rank, batch_size // ranks
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def batch(self, step: int) -> ClassificationBatch:
        """Return this process's share of the batch of step `step`, counted from 0."""
        return self._collate(step, [self._sample(position) for position in self._positions(step)])

    def iterate(self, first: int, last: int, workers: int = 0) -> Iterator[ClassificationBatch]:
        """Yield the batches of steps first..last-1; `workers` threads prepare them ahead (0: the caller does)."""
        steps = range(first, last)
        if workers == 0:
            yield from map(self.batch, steps)
            return
        yield from ahead(steps, self._positions, self._sample, self._collate, workers)

    def _positions(self, step: int) -> range:
        first = step * self.batch_size + self.rank * self.share
        return range(first, first + self.share)

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _SHUFFLE, epoch]).permutation(len(self.images))

    def _sample(self, position: int) -> _Sample:
        size = len(self.images)
        epoch, place = divmod(position, size)
        order, rng = self._permutation(epoch), np.random.default_rng([self.seed, _AUGMENT, position])
        for offset in range(size):
            index = int(order[(place // self.repeats + offset) % size])
            try:
                image, label = self.images[index]
            except (OSError, ValueError) as error:
                if not self.skips:
                    raise
                self.skipped[self.images.file(index)] = one_line(error)
            else:
                return self.augmentation(image, rng), label, self.images.file(index)
        raise ValueError(f"data: one training image must be readable, got {size} that are not")

    def _collate(self, step: int, samples: list[_Sample]) -> ClassificationBatch:
        views = [view for view, _, _ in samples]
        images = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2)
        mix = self.mixing.draw(
            self.augmentation.crop, np.random.default_rng([self.seed, _MIX, step, self.rank])
        )
        labels = torch.tensor([label for _, label, _ in samples])
        return ClassificationBatch(
            images,
            mix.targets(labels, self.num_classes, self.smoothing),
            tuple(file for _, _, file in samples),
            ((self.augmentation.crop, self.augmentation.crop),) * len(samples),
            tuple(view.erased for view in views),
            mix,
        )
