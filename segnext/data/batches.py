"""Training batches are a pure function of (seed, step): resuming needs no state, and workers change nothing.

The n-th sample of a run is image `permutation(epoch)[n mod size]` seen through an augmentation whose
random numbers are seeded by (seed, n). Workers are threads: decoding, resampling and large numpy
operations release the GIL, and threads share one cache of decoded images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing
from segnext.data.transforms import Augmentation, View
from segnext.one_line import one_line

LONGEST = 1000  # characters of the reason why an image was skipped: a path has hundreds
PREFETCH_BATCHES = 3  # enough to even out slow images; more would only take memory
SHUFFLE, AUGMENT, MIX = 0, 1, 2  # separate streams of random numbers under one seed

Item = TypeVar("Item")
Sample = TypeVar("Sample")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Batch:
    """The input of one step.

    Attributes:
        images: (N, 3, H, W) uint8 RGB, channels_last.
        labels: (N, H, W) uint8 class ids.
        files: the N image files, in order.
        sizes: height and width of each view, in the upper left corner; the rest is padding.
    """

    images: Tensor
    labels: Tensor
    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]

    def normalised(self, preprocessing: Preprocessing, device: torch.device | str | None = None) -> Tensor:
        """Return the network's input, (N, 3, H, W) float32; padding is 0 in it, as in the published recipes."""
        images = preprocessing(self.images, device=device)
        for image, (height, width) in zip(images, self.sizes, strict=True):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return images


def ahead(
    steps: range,
    positions: Callable[[int], range],
    sample: Callable[[int], Sample],
    collate: Callable[[int, list[Sample]], Made],
    workers: int,
) -> Iterator[Made]:
    """Yield the batches of some steps, which threads prepare ahead.

    Args:
        steps: one after another.
        positions: the positions of a step's samples.
        sample: makes the sample of a position.
        collate: makes the batch of a step from its samples.
        workers: number of threads, at least one.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="segnext-data")
    pending: deque[list[Future[Sample]]] = deque()
    try:
        for step in steps:
            while len(pending) < PREFETCH_BATCHES and step + len(pending) < steps.stop:
                pending.append([pool.submit(sample, position) for position in positions(step + len(pending))])
            yield collate(step, [future.result() for future in pending.popleft()])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Batches(ABC, Generic[Item, Sample]):
    """Draws the samples of endless shuffled epochs; what an item, a sample and a batch are, a subclass says.

    Args:
        size: number of images.
        batch_size: samples per batch.
        seed: decides everything that is random.
        rank: number of this process, from 0; it gets its share of each batch.
        ranks: number of processes; `batch_size` is a multiple of it.
        repeats: samples of each image in a row; an epoch has `size` samples, and so a share of the images.

    Attributes:
        skips: whether an image or a label that cannot be read gives way to the next one of its epoch.
        skipped: the image files of such items, and why.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, *, rank: int = 0, ranks: int = 1, repeats: int = 1
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = repeats
        self.skips = False
        self.skipped: dict[Path, str] = {}
        self.rank, self.share = rank, batch_size // ranks
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    @abstractmethod
    def read(self, index: int) -> Item:
        """Read one image and its label; raises OSError or ValueError if it cannot."""

    @abstractmethod
    def file(self, index: int) -> Path:
        """Return the file of an image."""

    @abstractmethod
    def sample(self, item: Item, index: int, rng: np.random.Generator) -> Sample:
        """Draw a view of what `read` gave for `index`."""

    @abstractmethod
    def collate(self, step: int, samples: list[Sample]) -> Batch:
        """Make a batch of this process's samples of a step."""

    def batch(self, step: int) -> Batch:
        """Return this process's share of the batch of step `step`, counted from 0."""
        return self.collate(step, [self._sample(position) for position in self._positions(step)])

    def iterate(self, first: int, last: int, workers: int = 0) -> Iterator[Batch]:
        """Yield the batches of steps first..last-1; `workers` threads prepare them ahead (0: the caller does)."""
        steps = range(first, last)
        if workers == 0:
            yield from map(self.batch, steps)
            return
        yield from ahead(steps, self._positions, self._sample, self.collate, workers)

    def _positions(self, step: int) -> range:
        first = step * self.batch_size + self.rank * self.share
        return range(first, first + self.share)

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, SHUFFLE, epoch]).permutation(self.size)

    def _sample(self, position: int) -> Sample:
        epoch, place = divmod(position, self.size)
        order, rng = self._permutation(epoch), np.random.default_rng([self.seed, AUGMENT, position])
        for offset in range(self.size):
            index = int(order[(place // self.repeats + offset) % self.size])
            try:
                item = self.read(index)
            except (OSError, ValueError) as error:
                if not self.skips:
                    raise
                self.skipped[self.file(index)] = one_line(error, LONGEST)
            else:
                return self.sample(item, index, rng)
        raise ValueError(
            f"data: one training image must be readable, got {self.size} that are not, such as "
            f"{next(iter(self.skipped.values()))}"
        )


class TrainingBatches(Batches[tuple[np.ndarray, np.ndarray], tuple[View, Path]]):
    """Draws augmented samples of a segmentation.

    Args:
        dataset: where samples come from.
        augmentation: draws a random view of each sample.
        batch_size: samples per batch.
        seed: decides everything that is random.
        rank: number of this process, see `Batches`.
        ranks: number of processes.
    """

    def __init__(
        self,
        dataset: SegmentationFolder,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        super().__init__(len(dataset), batch_size, seed, rank=rank, ranks=ranks)
        self.dataset = dataset
        self.augmentation = augmentation

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read one image and its label map."""
        return self.dataset[index]

    def file(self, index: int) -> Path:
        """Return the file of an image."""
        return self.dataset.pairs[index][0]

    def sample(
        self, item: tuple[np.ndarray, np.ndarray], index: int, rng: np.random.Generator
    ) -> tuple[View, Path]:
        """Draw a view of an image and its label map."""
        return self.augmentation(*item, rng), self.file(index)

    def collate(self, step: int, samples: list[tuple[View, Path]]) -> Batch:
        """Stack views and label maps."""
        images = torch.from_numpy(np.stack([view.image for view, _ in samples]))
        labels = torch.from_numpy(np.stack([view.label for view, _ in samples]))
        files, sizes = tuple(file for _, file in samples), tuple(view.size for view, _ in samples)
        return Batch(images.permute(0, 3, 1, 2), labels, files, sizes)
