"""Batches of a classification are pure functions of (seed, step), as those of a segmentation.

The n-th sample of a run is image `permutation(epoch)[n mod size // repeats]` in a view that is drawn with (seed, n);
how a process mixes its share of a batch is drawn with (seed, step, rank).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segnext.data.batches import MIX, Batch, Batches
from segnext.data.classification import ClassifiedImages
from segnext.data.classification_views import ClassAugmentation, ClassView, Erased
from segnext.data.mixing import Mix, Mixing
from segnext.data.preprocessing import Preprocessing

Sample = tuple[ClassView, int, Path]


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


class ClassificationBatches(Batches[tuple[np.ndarray, int], Sample]):
    """Draws augmented samples of a classification, with repeated augmentation (arXiv 1901.09335), and mixes them.

    Args:
        images: where samples come from.
        num_classes: number of classes.
        augmentation: draws a random view of each image.
        mixing: draws how each batch is mixed.
        batch_size: samples per batch.
        seed: decides everything that is random.
        repeats: views of an image in a row.
        smoothing: share of the label that is spread over all classes.
        rank: number of this process, see `Batches`; it mixes its images alone.
        ranks: number of processes.
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
        super().__init__(len(images), batch_size, seed, rank=rank, ranks=ranks, repeats=repeats)
        self.images = images
        self.num_classes = num_classes
        self.augmentation = augmentation
        self.mixing = mixing
        self.smoothing = smoothing

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Read one image, and its class id."""
        return self.images[index]

    def file(self, index: int) -> Path:
        """Return the file of an image."""
        return self.images.file(index)

    def sample(self, item: tuple[np.ndarray, int], index: int, rng: np.random.Generator) -> Sample:
        """Draw a view of an image."""
        image, label = item
        return self.augmentation(image, rng), label, self.file(index)

    def collate(self, step: int, samples: list[Sample]) -> ClassificationBatch:
        """Stack the views, and draw how they and their labels are mixed."""
        views = [view for view, _, _ in samples]
        images = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2)
        mix = self.mixing.draw(
            self.augmentation.crop, np.random.default_rng([self.seed, MIX, step, self.rank])
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
