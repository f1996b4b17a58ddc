"""Keeps the images of an evaluation that were predicted worst, and draws each beside its label."""

from __future__ import annotations

import csv
import heapq
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segnext.atomic import replace_bytes, replace_text
from segnext.data.bands import rgb_view
from segnext.data.dataset import SegmentationFolder
from segnext.drawing.encoding import encoded
from segnext.drawing.fonts import font_for, legible
from segnext.drawing.overlay import INK, PAPER, draw_overlay
from segnext.evaluation.evaluate import Predicted
from segnext.ranks import Ranks

LIST = "worst.csv"
COLUMNS = ("rank", "miou", "pixel_accuracy", "image", "label", "picture")
LARGEST_PANEL = 960  # pixels of the longer side: three of them fit on a screen
STEM_BYTES = 160  # of the image's name in its picture's: a file's name has at most 255
TEXT, LINE = 15, 24  # pixels of the caption's letters, and of a line


@dataclass(frozen=True, order=True)
class Scored:
    """One image and how well it was predicted; the worst one is the smallest.

    Attributes:
        miou: mean IoU over the classes that occur in its label or prediction.
        pixel_accuracy: share of its labelled pixels that are right.
        image_file: the image.
        label_file: its label.
        mask: (H, W) uint8, the prediction.
    """

    miou: float
    pixel_accuracy: float
    image_file: Path
    label_file: Path
    mask: np.ndarray = field(compare=False, repr=False)


class _Reversed:
    """Turns the order round, for `heapq` gives the smallest item and the best one has to go."""

    def __init__(self, scored: Scored) -> None:
        self.scored = scored

    def __lt__(self, other: _Reversed) -> bool:
        return other.scored < self.scored


class WorstImages:
    """Keeps the images of the lowest mIoU: ties go by pixel accuracy, then by name.

    It keeps the masks of these alone, so that its memory does not grow with the data set. Images without a labelled
    pixel have no score and are left out.

    Args:
        count: most images that are kept, at least 1.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._heap: list[_Reversed] = []

    def look(self, predicted: Predicted) -> None:
        """Take one image of `evaluate`."""
        miou, pixel_accuracy = predicted.confusion.miou, predicted.confusion.pixel_accuracy
        if math.isnan(miou) or math.isnan(pixel_accuracy):
            return
        mask = predicted.mask.numpy().astype(np.uint8)
        scored = _Reversed(Scored(miou, pixel_accuracy, predicted.image_file, predicted.label_file, mask))
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, scored)
        else:
            heapq.heappushpop(self._heap, scored)

    def ranked(self) -> list[Scored]:
        """Return the kept images, the worst one first."""
        return sorted(entry.scored for entry in self._heap)

    def ranked_of_all(self, ranks: Ranks) -> list[Scored]:
        """Return in the first process what `ranked` would return if it had taken the images of all; else nothing.

        Scores are compared first, so that no more masks are sent than are kept.
        """
        own, no_mask = self.ranked(), np.zeros((0, 0), np.uint8)
        scores = ranks.gathered([replace(scored, mask=no_mask) for scored in own])
        kept = set(sorted(chain.from_iterable(scores))[: self.count])
        return sorted(chain.from_iterable(ranks.gathered_by_first([s for s in own if s in kept])))


def save_worst(
    folder: Path, ranked: Sequence[Scored], dataset: SegmentationFolder, palette: Sequence[Sequence[int]]
) -> None:
    """Write a picture of each image and `worst.csv`, which lists them; each file is replaced whole.

    Args:
        folder: where to write; it is made if it is missing.
        ranked: from `WorstImages.ranked`.
        dataset: reads images and labels again.
        palette: the colour of each class.

    Raises:
        OSError: the system refuses to write.
    """
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(COLUMNS)
    for rank, scored in enumerate(ranked, 1):
        image = rgb_view(dataset.read_image(scored.image_file))
        label = dataset.labels.classes(dataset.labels.read(scored.label_file), scored.label_file)
        picture = draw_triple(image, label, scored, palette, dataset.ignore_index)
        stem = os.fsencode(scored.image_file.stem)[:STEM_BYTES].decode(errors="ignore")
        name = f"{rank:0{len(str(len(ranked)))}}_{stem}.png"
        replace_bytes(folder / name, encoded(picture, format="PNG"))
        numbers = (f"{scored.miou:.6f}", f"{scored.pixel_accuracy:.6f}")
        rows.writerow((rank, *numbers, scored.image_file, scored.label_file, name))
    replace_text(folder / LIST, table.getvalue())


def draw_triple(
    image: np.ndarray,
    label: np.ndarray,
    scored: Scored,
    palette: Sequence[Sequence[int]],
    ignore_index: int,
    largest: tuple[int, int] = (LARGEST_PANEL, LARGEST_PANEL),
) -> Image.Image:
    """Return photograph, label and prediction side by side, under a caption; ignored pixels of the label are black.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) class ids, or `ignore_index`.
        scored: the prediction and its measures.
        palette: the colour of each class.
        ignore_index: label that is not counted.
        largest: width and height that each of the three may have at most.
    """
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    of_label = colours.copy()
    of_label[ignore_index : ignore_index + 1] = 0
    panels = [
        Image.fromarray(image),
        draw_overlay(image, label, of_label),
        draw_overlay(image, scored.mask, colours),
    ]
    for panel in panels:
        panel.thumbnail(largest)
    width, height = panels[0].size
    measures = f"mIoU {scored.miou:.4f}, pixel accuracy {scored.pixel_accuracy:.4f}"
    lines = [_drawable(scored.image_file.name), measures]
    needed = max(int(font.getlength(text)) for text, font in map(_with_font, lines)) + TEXT
    canvas = Image.new("RGB", (max(3 * width, needed), 3 * LINE + height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, (text, font) in enumerate(map(_with_font, lines)):
        draw.text((TEXT // 2, row * LINE + LINE // 2), text, font=font, fill=INK, anchor="lm")
    for place, (panel, title) in enumerate(zip(panels, ("photograph", "label", "prediction"), strict=True)):
        middle = (place * width + width // 2, 2 * LINE + LINE // 2)
        draw.text(middle, title, font=ImageFont.load_default(TEXT), fill=INK, anchor="mm")
        canvas.paste(panel, (place * width, 3 * LINE))
    return canvas


def _with_font(text: str) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    return text, font_for(text, TEXT) or ImageFont.load_default(TEXT)


def _drawable(name: str) -> str:
    return legible(name) or "(a name that cannot be drawn)"
