"""Draws a few images of an evaluation, always the same ones: photograph, label and prediction side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segnext.data.bands import rgb_view
from segnext.data.dataset import SegmentationFolder
from segnext.drawing.overlay import PAPER, add_legend
from segnext.evaluation.evaluate import Predicted
from segnext.evaluation.worst import Scored, draw_triple

SAMPLES = "samples.png"
COUNT = 4  # they fit on a screen, one below the other
TILE = (960, 320)  # the most that a photograph takes, width and height


class Samples:
    """Keeps what an evaluation predicts for a few images that are spread over the data set.

    Args:
        dataset: the images that are evaluated.
        classes: class names.
        palette: the colour of each class.
    """

    def __init__(
        self, dataset: SegmentationFolder, classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
    ) -> None:
        self.dataset, self.classes, self.palette = dataset, classes, palette
        count = min(COUNT, len(dataset))
        middles = [(2 * part + 1) * len(dataset) // (2 * count) for part in range(count)]
        self._indices = {dataset.pairs[index][0]: index for index in middles}
        self._scored: dict[int, Scored] = {}

    def look(self, predicted: Predicted) -> None:
        """Take one image of `evaluate`."""
        index = self._indices.get(predicted.image_file)
        if index is not None:
            miou, pixel_accuracy = predicted.confusion.miou, predicted.confusion.pixel_accuracy
            mask = predicted.mask.numpy().astype(np.uint8)
            self._scored[index] = Scored(
                miou, pixel_accuracy, predicted.image_file, predicted.label_file, mask
            )

    def draw(self) -> memoryview:
        """Return the images one below the other, each with its mIoU and the names of its classes, as a PNG."""
        drawn = [self._row(index, scored) for index, scored in sorted(self._scored.items())]
        size = max(row.width for row in drawn), sum(row.height for row in drawn)
        sheet, top = Image.new("RGB", size, PAPER), 0
        for row in drawn:
            sheet.paste(row, (0, top))
            top += row.height
        picture = io.BytesIO()
        sheet.save(picture, "png")
        return picture.getbuffer()

    def _row(self, index: int, scored: Scored) -> Image.Image:
        image, label = self.dataset[index]
        ignore_index = self.dataset.ignore_index
        triple = draw_triple(rgb_view(image), label, scored, self.palette, ignore_index, TILE)
        counts = np.bincount(label[label != ignore_index], minlength=256)
        present = sorted({*np.flatnonzero(counts).tolist(), *np.unique(scored.mask).tolist()})
        labelled = max(int(counts.sum()), 1)
        return add_legend(
            triple,
            [(each, self.classes[each], self.palette[each], counts[each] / labelled) for each in present],
        )
