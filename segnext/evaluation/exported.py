"""Compares an exported file with the network that it was made from: pixels of photographs, mIoU with labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from segnext.data.bands import read_bands
from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing, as_batch
from segnext.data.resizing import resize
from segnext.evaluation.metrics import ConfusionMatrix
from segnext.export.network import ExportedNetwork
from segnext.predict.inference import Inference, Network, predict_mask

LEAST_EQUAL = {"float32": 0.999, "float16": 0.995}
"""Share of the pixels that must have the same class, by the file's dtype. For int8 the mIoU decides."""
MOST_LOST = 0.002
"""Largest loss of mIoU on labelled images."""


@dataclass
class Agreement:
    """What two networks say about the same images.

    Attributes:
        equal, pixels: pixels with the same class, and all of them.
        images: number of images.
        worst: the image with the smallest share of equal pixels, and that share.
        miou: of the network and of the file; None without labels.
    """

    equal: int = 0
    pixels: int = 0
    images: int = 0
    worst: tuple[str, float] = ("", 2.0)
    miou: tuple[float, float] | None = None

    def add(self, name: str, mask: Tensor, other: Tensor) -> None:
        """Count one image."""
        equal = int((mask == other).sum())
        self.equal, self.pixels, self.images = (
            self.equal + equal,
            self.pixels + mask.numel(),
            self.images + 1,
        )
        self.worst = min(self.worst, (name, equal / mask.numel()), key=lambda pair: pair[1])

    @property
    def share(self) -> float:
        """The share of equal pixels."""
        return self.equal / self.pixels

    def failure(self, dtype: str) -> str | None:
        """Return what is wrong with a file of this dtype; None if it may be used."""
        if self.miou is not None and not self.miou[1] >= self.miou[0] - MOST_LOST:
            return (
                f"mIoU must be at most {100 * MOST_LOST:g} points below {100 * self.miou[0]:.2f}, got "
                f"{100 * self.miou[1]:.2f}"
            )
        least = LEAST_EQUAL.get(dtype)
        if least is not None and not self.share >= least:
            return f"at least {100 * least:g} % of the pixels must have the same class, got {100 * self.share:.3f} %"
        return None

    def __str__(self) -> str:
        """Return it in one line."""
        images = "1 image" if self.images == 1 else f"{self.images} images"
        text = f"{100 * self.share:.4f} % of {self.pixels:,} pixels of {images} equal"
        if self.images > 1:
            text += f", least {100 * self.worst[1]:.4f} % in {self.worst[0]}"
        if self.miou is not None:
            text += f"; mIoU {100 * self.miou[1]:.2f}, of the weights {100 * self.miou[0]:.2f}"
        return text


def compare_on_photographs(
    network: Network,
    exported: ExportedNetwork,
    files: Sequence[Path],
    after_image: Callable[[], None] = lambda: None,
) -> Agreement:
    """Compare the masks of photographs.

    A file of one size gets them resized to it; a file of free sizes as `segnext predict` would resize them.

    Args:
        network: the one that the file was made from, in evaluation mode or deployed, with its ``metadata``.
        exported: the file.
        files: photographs.
        after_image: called after each, for a progress bar.

    Raises:
        segnext.data.images.ImageError: a photograph cannot be read.
    """
    agreement, interface = Agreement(), exported.description.interface
    own = Preprocessing.of(getattr(network, "metadata", {}))
    given = Preprocessing.of(exported.metadata)
    inference = Inference().for_weights(own.short_side)
    for file in files:
        pixels = as_batch(read_bands(file, own.bands, own.value_range))
        height, width = pixels.shape[2:]
        size = inference.seen(height, width) if interface.dynamic else (interface.height, interface.width)
        pixels = resize(pixels, size).expand(1 if interface.dynamic else interface.batch, -1, -1, -1)
        agreement.add(file.name, network.predict(own(pixels)).cpu()[:1], exported.predict(given(pixels))[:1])
        after_image()
    return agreement


def compare_on_labels(
    network: Network,
    exported: ExportedNetwork,
    dataset: SegmentationFolder,
    inference: Inference,
    after_image: Callable[[], None] = lambda: None,
) -> Agreement:
    """Compare masks and mIoU on a data set; the arguments are those of `compare_on_photographs` and of `evaluate`.

    Raises:
        ValueError: the file takes images of another size than the data set's.
    """
    own = Preprocessing.of(getattr(network, "metadata", {}))
    given = Preprocessing.of(exported.metadata)
    dataset = dataset.read_as(own)
    inference = inference.for_weights(own.short_side)
    agreement = Agreement()
    counts = [ConfusionMatrix(dataset.num_classes, dataset.ignore_index) for _ in range(2)]
    for index in range(len(dataset)):
        image, label = dataset[index]
        images, true = as_batch(image), torch.from_numpy(label)
        masks = [
            predict_mask(one, images, preprocessing, inference)[0]
            for one, preprocessing in ((network, own), (exported, given))
        ]
        for one, mask in zip(counts, masks, strict=True):
            one.update(mask, true)
        agreement.add(dataset.pairs[index][0].name, *masks)
        after_image()
    agreement.miou = (counts[0].miou, counts[1].miou)
    return agreement
