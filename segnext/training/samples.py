"""Draws a few images of an evaluation, always the same ones: photograph, label and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from segnext.data.bands import rgb_view
from segnext.data.dataset import SegmentationFolder
from segnext.drawing.encoding import encoded
from segnext.drawing.overlay import PAPER, add_legend
from segnext.evaluation.evaluate import Predicted
from segnext.evaluation.worst import Scored, draw_triple

SAMPLES = "samples.png"
COUNT = 4  # they fit on a screen, one below the other
TILE = (960, 320)  # the most that a photograph takes, width and height


class Sample(NamedTuple):
    """One image, its label and what was predicted."""

    image: np.ndarray
    label: np.ndarray
    scored: Scored


class Samples:
    """Takes a few images of an evaluation, which are spread over the data set.

    Args:
        dataset: the images that are evaluated.

    Attributes:
        taken: those that were seen so far.
    """

    def __init__(self, dataset: SegmentationFolder) -> None:
        self.dataset = dataset
        count = min(COUNT, len(dataset))
        middles = [(2 * part + 1) * len(dataset) // (2 * count) for part in range(count)]
        self._indices = {dataset.pairs[index][0]: index for index in middles}
        self.taken: list[Sample] = []

    def look(self, predicted: Predicted) -> None:
        """Take one image of `evaluate`."""
        index = self._indices.get(predicted.image_file)
        if index is None:
            return
        miou, pixel_accuracy = predicted.confusion.miou, predicted.confusion.pixel_accuracy
        mask = predicted.mask.numpy().astype(np.uint8)
        scored = Scored(miou, pixel_accuracy, predicted.image_file, predicted.label_file, mask)
        image, label = self.dataset[index]
        self.taken.append(Sample(rgb_view(image), label, scored))


def draw_samples(
    taken: Sequence[Sample],
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    ignore_index: int,
) -> bytes:
    """Return images one below the other, each with its mIoU and the names of its classes, as a PNG.

    Args:
        taken: at least one image.
        classes: class names; beside a name stands the class's share of the labelled pixels.
        palette: the colour of each class.
        ignore_index: label that is not counted.
    """
    drawn = []
    for image, label, scored in taken:
        triple = draw_triple(image, label, scored, palette, ignore_index, TILE)
        counts = np.bincount(label[label != ignore_index], minlength=256)
        present = sorted({*np.flatnonzero(counts).tolist(), *np.unique(scored.mask).tolist()})
        shares = counts / max(int(counts.sum()), 1)
        entries = [(each, classes[each], palette[each], float(shares[each])) for each in present]
        drawn.append(add_legend(triple, entries))
    size = max(row.width for row in drawn), sum(row.height for row in drawn)
    sheet, top = Image.new("RGB", size, PAPER), 0
    for row in drawn:
        sheet.paste(row, (0, top))
        top += row.height
    return encoded(sheet, format="PNG")
