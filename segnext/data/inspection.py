"""Looks at every pair of a split: what the labels hold, and whether images and labels are whole and fit together.

`segnext.data.findings` judges what is found here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from segnext.data.config import DataConfig
from segnext.data.dataset import SegmentationFolder
from segnext.data.fingerprints import Fingerprint
from segnext.data.headers import Header
from segnext.data.images import ImageError, opened, orientation
from segnext.data.labels import LabelReader

MOST_THREADS = 8  # decoding runs in parallel; more threads would wait for the disk


@dataclass(frozen=True)
class Label:
    """What one label file holds.

    Attributes:
        header: its size and turn.
        channels: 1; 3 for ids in three equal channels, or colours.
        counts: pixels of each value.
        palette: the colour, 0xRRGGBB, of each value; empty for a file without a palette.
    """

    header: Header
    channels: int
    counts: dict[int, int]
    palette: dict[int, int]


@dataclass(frozen=True)
class Pair:
    """One image and its label.

    Attributes:
        image_file: the image.
        label_file: the label.
        image: the image's header; None if it cannot be read.
        label: what the label holds; None if it cannot be read.
        errors: each file that cannot be read, and why in one line.
    """

    image_file: Path
    label_file: Path
    image: Header | None
    label: Label | None
    errors: tuple[tuple[Path, str], ...]

    def misfit(self, upright: bool) -> Misfit | None:
        """Return how image and label differ if EXIF turns both (`upright`) or neither; None if they do not."""
        if self.image is None or self.label is None:
            return None
        size, label_size = self.image.size(upright), self.label.header.size(upright)
        turn, label_turn = self.image.orientation, self.label.header.orientation
        if size == label_size and turn == label_turn:
            return None
        fits_otherwise = self.image.size(not upright) == self.label.header.size(not upright)
        return Misfit(self.image_file, self.label_file, size, label_size, turn, label_turn, fits_otherwise)


@dataclass(frozen=True)
class Misfit:
    """A pair whose image and label have different sizes, or different turns by EXIF.

    Attributes:
        image_file: the image.
        label_file: the label.
        size: (height, width) of the image, as the data set gives it.
        label_size: (height, width) of the label, likewise.
        turn: EXIF orientation of the image.
        label_turn: EXIF orientation of the label.
        fits_otherwise: whether the sizes are equal if EXIF is treated in the other way.
    """

    image_file: Path
    label_file: Path
    size: tuple[int, int]
    label_size: tuple[int, int]
    turn: int
    label_turn: int
    fits_otherwise: bool


@dataclass
class SplitReport:
    """The content of one split.

    Attributes:
        config: the data set.
        split: which of its splits.
        reader: how its labels are read.
        total: image and label pairs of the split.
        inspected: number of pairs that were looked at.
        sizes: (height, width) of an image, as the data set gives it, to the number of images that have it.
        kinds: depth and bands, such as "8-bit RGB", to the number of images that have them.
        fingerprints: images with their fingerprints, without those that are too plain to have one.
        pixels: (256,) pixels of each class and of the ignored id.
        images: (256,) labels in which each of these occurs.
        values: pixels of each value in the files, ids or colours.
        unknown: the values that are neither a class nor ignored, with the number of labels that hold them.
        unknown_in: labels that hold such a value.
        first_with: the first label that holds a value.
        unlabelled: labels all of whose pixels are ignored.
        unreadable: images and labels that cannot be read: the file, and why in one line.
        misfits: pairs whose sizes or turns differ.
        in_three_channels: labels whose ids are stored three times.
        palette: the colour of each id, in the first label whose palette has one.
        repainted: labels in which an id has another colour than in `palette`; with that id.
    """

    config: DataConfig
    split: str
    reader: LabelReader
    total: int
    inspected: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    fingerprints: list[tuple[Path, Fingerprint]] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    values: Counter[int] = field(default_factory=Counter)
    unknown: Counter[int] = field(default_factory=Counter)
    unknown_in: list[Path] = field(default_factory=list)
    first_with: dict[int, Path] = field(default_factory=dict)
    unlabelled: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)
    in_three_channels: list[Path] = field(default_factory=list)
    palette: dict[int, int] = field(default_factory=dict)
    repainted: list[tuple[Path, int]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every pair was looked at."""
        return self.inspected == self.total

    @property
    def class_pixels(self) -> np.ndarray:
        """(K,) labelled pixels of each class; 0 for one that is ignored."""
        pixels = self.pixels[: len(self.config.classes)].copy()
        pixels[self.config.ignore_index : self.config.ignore_index + 1] = 0
        return pixels

    def class_weights(self, exponent: float) -> torch.Tensor:
        """Return (K,) float32 (median frequency / frequency)^exponent; classes without labelled pixels get 1."""
        frequency = self.class_pixels.astype(np.float64)
        occurs = frequency > 0
        weights = np.ones_like(frequency)
        weights[occurs] = (np.median(frequency[occurs]) / frequency[occurs]) ** exponent
        return torch.from_numpy(weights).float()

    def add(self, pair: Pair) -> None:
        """Count one pair."""
        self.inspected += 1
        self.unreadable += [(file, error) for file, error in pair.errors]
        if pair.image is not None:
            self.sizes[pair.image.size(self.reader.upright)] += 1
            self.kinds[pair.image.kind] += 1
            if pair.image.fingerprint is not None:
                self.fingerprints.append((pair.image_file, pair.image.fingerprint))
        if pair.label is not None:
            self._count(pair.label_file, pair.label)
        misfit = pair.misfit(self.reader.upright)
        if misfit is not None:
            self.misfits.append(misfit)

    def _count(self, file: Path, label: Label) -> None:
        values = np.fromiter(label.counts, np.int64, len(label.counts))
        counts = np.fromiter(label.counts.values(), np.int64, len(values))
        classes = self.reader.table[values]
        known = classes >= 0
        mapped = np.bincount(classes[known], counts[known], minlength=256).astype(np.int64)
        self.pixels += mapped
        self.images += mapped > 0
        self.values.update(label.counts)
        if not known.all():
            self.unknown.update(values[~known].tolist())
            self.unknown_in.append(file)
        for value in label.counts:
            self.first_with.setdefault(value, file)
        if (classes == self.config.ignore_index).all():
            self.unlabelled.append(file)
        if self.reader.has_colours:
            return
        if label.channels == 3:
            self.in_three_channels.append(file)
        other = [
            id_ for id_, colour in label.palette.items() if self.palette.setdefault(id_, colour) != colour
        ]
        if other:
            self.repainted.append((file, other[0]))


def inspect_split(
    config: DataConfig,
    split: str,
    limit: int | None = None,
    after_pair: Callable[[int], None] = lambda total: None,
    *,
    with_fingerprints: bool = True,
) -> SplitReport:
    """Read the labels of a split, check that its images are whole, several at once, and count.

    Args:
        config: the data set.
        split: one of `config.splits`.
        limit: look at at most this many pairs, spread evenly over the split; None: all.
        after_pair: called after each pair with the number of pairs to be looked at.
        with_fingerprints: make fingerprints of the images, to compare splits; PNG files take longer with them.

    Raises:
        ValueError, FileNotFoundError: the folders are missing or their files do not pair up.
    """
    dataset = config.open(split)
    report = SplitReport(config, split, dataset.labels, len(dataset))
    step = 1 if limit is None else max(1, -(-len(dataset) // limit))
    chosen = dataset.pairs[::step]
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "segnext-inspect") as pool:
        for pair in pool.map(lambda files: look(dataset, *files, with_fingerprint=with_fingerprints), chosen):
            report.add(pair)
            after_pair(len(chosen))
    return report


def look(
    dataset: SegmentationFolder, image_file: Path, label_file: Path, *, with_fingerprint: bool = False
) -> Pair:
    """Read one label and check its image; a file that cannot be read is no error here."""
    image: Header | None = None
    label: Label | None = None
    errors = []
    try:
        image = dataset.header(image_file, with_fingerprint=with_fingerprint)
    except ImageError as error:
        errors.append((image_file, str(error)))
    try:
        label = _label(dataset.labels, label_file)
    except ImageError as error:
        errors.append((label_file, str(error)))
    return Pair(image_file, label_file, image, label, tuple(errors))


def _label(reader: LabelReader, file: Path) -> Label:
    with opened(file) as image:
        channels = 3 if image.mode.startswith("RGB") else 1
        # A TIFF forgets its orientation when it is decoded; any other file must not be decoded before its values are
        # read, for it forgets how many bits they have.
        turn = orientation(image) if image.format == "TIFF" else 0
        values = reader.values(image)
        turn = turn or orientation(image)
        palette = np.array(image.getpalette("RGB") or (), np.int64).reshape(-1, 3) @ (1 << 16, 1 << 8, 1)
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=256)
        found = np.flatnonzero(counts)
        counts = counts[found]
    else:
        found, counts = np.unique(values, return_counts=True)
    height, width = values.shape[::-1] if reader.upright and turn >= 5 else values.shape
    colours = {value: int(palette[value]) for value in found.tolist() if value < len(palette)}
    pixels = dict(zip(found.tolist(), counts.tolist(), strict=True))
    return Label(Header(height, width, turn), channels, pixels, colours)
