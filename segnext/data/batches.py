"""Training batches are a pure function of (seed, step): resuming needs no state, and workers change nothing.

The n-th sample of a run is image `permutation(epoch)[n mod size]` seen through an augmentation whose
random numbers are seeded by (seed, n). Workers are threads: decoding, resampling and large numpy
operations release the GIL, and threads share one cache of decoded images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing
from segnext.data.transforms import Augmentation, View
from segnext.one_line import one_line

LONGEST = 1000  # characters of the reason why an image was skipped: a path has hundreds
PREFETCH_BATCHES = 3  # enough to even out slow images; more would only take memory
_SHUFFLE, _AUGMENT = 0, 1  # separate streams of random numbers under one seed

_Sample = tuple[View, Path]
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


class Batches(Protocol):
    """What a run takes its batches from.

    Attributes:
        skips: whether an image that cannot be read gives way to the next one of its epoch.
        skipped: such images, and why.
    """

    skips: bool
    skipped: dict[Path, str]

    def iterate(self, first: int, last: int, workers: int = 0, /) -> Iterator[Batch]:
        """Yield the batches of steps first..last-1; `workers` threads prepare them ahead (0: the caller does)."""


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


class TrainingBatches:
    """Draws augmented samples from endless shuffled epochs.

    Args:
        dataset: where samples come from.
        augmentation: draws a random view of each sample.
        batch_size: samples per batch.
        seed: decides everything that is random.
        rank: number of this process, from 0; it gets its share of each batch.
        ranks: number of processes; `batch_size` is a multiple of it.

    Attributes:
        skips: whether an image or a label that cannot be read gives way to the next one of its epoch.
        skipped: the image files of such pairs, and why.
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
        self.dataset = dataset
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self.skips = False
        self.skipped: dict[Path, str] = {}
        self.rank, self.share = rank, batch_size // ranks
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def batch(self, step: int) -> Batch:
        """Return this process's share of the batch of step `step`, counted from 0."""
        return _collate([self._sample(position) for position in self._positions(step)])

    def iterate(self, first: int, last: int, workers: int = 0) -> Iterator[Batch]:
        """Yield the batches of steps first..last-1; `workers` threads prepare them ahead (0: the caller does)."""
        steps = range(first, last)
        if workers == 0:
            yield from map(self.batch, steps)
            return
        yield from ahead(steps, self._positions, self._sample, lambda _, samples: _collate(samples), workers)

    def _positions(self, step: int) -> range:
        first = step * self.batch_size + self.rank * self.share
        return range(first, first + self.share)

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _SHUFFLE, epoch]).permutation(len(self.dataset))

    def _sample(self, position: int) -> _Sample:
        epoch, place = divmod(position, len(self.dataset))
        rng = np.random.default_rng([self.seed, _AUGMENT, position])
        for index in map(int, np.roll(self._permutation(epoch), -place)):
            try:
                pair = self.dataset[index]
            except (OSError, ValueError) as error:
                if not self.skips:
                    raise
                self.skipped[self.dataset.pairs[index][0]] = one_line(error, LONGEST)
            else:
                return self.augmentation(*pair, rng), self.dataset.pairs[index][0]
        raise ValueError(
            f"data: one training image must be readable, got {len(self.dataset)} that are not, such as "
            f"{next(iter(self.skipped.values()))}"
        )


def _collate(samples: list[_Sample]) -> Batch:
    images = torch.from_numpy(np.stack([view.image for view, _ in samples]))
    labels = torch.from_numpy(np.stack([view.label for view, _ in samples]))
    files, sizes = tuple(file for _, file in samples), tuple(view.size for view, _ in samples)
    return Batch(images.permute(0, 3, 1, 2), labels, files, sizes)
