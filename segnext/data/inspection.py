"""Examines a data set before training: what the labels hold, what is wrong with the files, what would cure it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from segnext.data.config import IGNORE, DataConfig
from segnext.data.images import ImageError, read_image
from segnext.data.labels import read_label

# This maps the 34 label ids of Cityscapes to the 19 evaluated classes (labels.py of cityscapesScripts).
CITYSCAPES_CLASSES, CITYSCAPES_LAST_ID = 19, 33
CITYSCAPES_MAP = (
    "{0-6: ignore, 7-8: 0, 9-10: ignore, 11-13: 2, 14-16: ignore, 17: 5, 18: ignore, 19-28: 6, 29-30: ignore, "
    "31-33: 16}"
)


def _counts() -> np.ndarray:
    return np.zeros(256, np.int64)


@dataclass
class SplitReport:
    """The content of one split.

    Attributes:
        num_classes: ids 0..num_classes-1 are classes.
        ignore_index: the one other id of a label map.
        is_mapped: whether the data YAML has a label map.
        pairs: image and label pairs of the split.
        inspected: number of pairs that were read.
        sizes: (height, width) of an image to the number of images that have it.
        pixels: (256,) pixels of each class and of the ignored id.
        images: (256,) labels in which each of these occurs.
        unknown_pixels: (256,) pixels of each id in the files that is none of these.
        unknown_images: (256,) labels in which each of these ids occurs.
        ids: the ids in the files, in order.
        problems: one line for each broken file, wrong size or unknown id.
    """

    num_classes: int
    ignore_index: int
    is_mapped: bool
    pairs: int
    inspected: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=_counts)
    images: np.ndarray = field(default_factory=_counts)
    unknown_pixels: np.ndarray = field(default_factory=_counts)
    unknown_images: np.ndarray = field(default_factory=_counts)
    ids: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def unknown_ids(self) -> list[int]:
        """The ids in the files that are neither a class nor ignored, in order."""
        return np.flatnonzero(self.unknown_pixels).tolist()

    def count(self, pixels: np.ndarray, table: np.ndarray) -> None:
        """Add one label: `pixels` is (256,) pixels of each id in the file, `table` as in `SegmentationFolder`."""
        known = table >= 0
        mapped = np.bincount(table[known], pixels[known], minlength=256).astype(np.int64)
        self.pixels += mapped
        self.images += mapped > 0
        self.unknown_pixels += np.where(known, 0, pixels)
        self.unknown_images += ~known & (pixels > 0)
        self.ids = sorted({*self.ids, *np.flatnonzero(pixels).tolist()})


def inspect_split(
    config: DataConfig,
    split: str,
    limit: int | None = None,
    after_pair: Callable[[int], None] = lambda total: None,
) -> SplitReport:
    """Read images and labels of a split and count.

    Args:
        config: the data set.
        split: one of `config.splits`.
        limit: read at most this many pairs, spread evenly over the split; None: all.
        after_pair: called after each pair with the number of pairs to be read.

    Raises:
        ValueError, FileNotFoundError: the folders are missing or their files do not pair up.
    """
    dataset = config.open(split)
    pairs = dataset.pairs
    report = SplitReport(dataset.num_classes, dataset.ignore_index, config.label_map is not None, len(pairs))
    step = 1 if limit is None else max(1, -(-len(pairs) // limit))
    chosen = pairs[::step]
    first_with: dict[int, str] = {}
    for image_file, label_file in chosen:
        try:
            height, width = read_image(image_file).shape[:2]
            label = read_label(label_file)
        except ImageError as error:
            report.problems.append(str(error))
        else:
            report.sizes[height, width] += 1
            if label.shape != (height, width):
                report.problems.append(
                    f"{label_file}: the label must be {width}x{height} as its image, got "
                    f"{label.shape[1]}x{label.shape[0]}"
                )
            counts = np.bincount(label.ravel(), minlength=256)
            report.count(counts, dataset.labels.table[:256])
            for found in np.flatnonzero(counts).tolist():
                first_with.setdefault(found, str(label_file))
        report.inspected += 1
        after_pair(len(chosen))
    total = report.pixels.sum() + report.unknown_pixels.sum()
    expected = (
        "be in the label_map of the data YAML"
        if report.is_mapped
        else f"be a class, 0..{report.num_classes - 1}, or {report.ignore_index} to be ignored"
    )
    for unknown in report.unknown_ids:
        share = report.unknown_pixels[unknown] / total
        report.problems.append(
            f"{first_with[unknown]}: id {unknown} ({100 * share:.2g} % of the pixels) must {expected}"
        )
    return report


def advice(report: SplitReport) -> str | None:
    """Say what unknown ids usually mean and which line of the data YAML cures it; None without unknown ids."""
    unknown, classes = report.unknown_ids, report.num_classes
    if not unknown:
        return None
    if report.is_mapped:
        return f"add to label_map in the data YAML: {', '.join(f'{label}: {IGNORE}' for label in unknown)}"
    if classes == CITYSCAPES_CLASSES and max(unknown) <= CITYSCAPES_LAST_ID:
        return (
            f"these look like Cityscapes label ids; add to the data YAML: label_map: {CITYSCAPES_MAP}; "
            "or take the files of train ids, if you have made them: label_suffix: _gtFine_labelTrainIds"
        )
    if unknown == [classes]:
        return (
            f"ids seem to start at 1; add to the data YAML: label_map: {{0: {IGNORE}, 1-{classes}: 0}}, which "
            "ignores 0 and subtracts 1 from all others"
        )
    ignored = ", ".join(f"{label}: {IGNORE}" for label in unknown)
    return (
        "map the ids by label_map in the data YAML, in the order of `classes`; if the unknown ones are to be "
        f"ignored: label_map: {{0-{classes - 1}: 0, {ignored}}}"
    )
