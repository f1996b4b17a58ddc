"""Looking a data set over before training on it: what is in the labels, and what is wrong with the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from segnext.data.dataset import DataConfig, SegmentationFolder
from segnext.data.images import ImageError, read_image, read_label


@dataclass
class SplitReport:
    """What one split holds.

    Attributes:
        num_classes: ids 0..num_classes-1 are valid.
        ignore_index: the one other valid id.
        pairs: image and label pairs of the split.
        inspected: how many of them were read.
        sizes: (height, width) of an image to how many have it.
        pixels: (256,) pixels of each id.
        images: (256,) labels in which each id occurs.
        problems: one line for each broken file, wrong size or unknown id.
    """

    num_classes: int
    ignore_index: int
    pairs: int
    inspected: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    problems: list[str] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """The ids that occur, in order."""
        return np.flatnonzero(self.pixels).tolist()

    @property
    def unknown_ids(self) -> list[int]:
        """The ids that occur and are neither a class nor ignored."""
        return [label for label in self.ids if label >= self.num_classes and label != self.ignore_index]


def inspect_split(
    config: DataConfig,
    split: str,
    limit: int | None = None,
    after_pair: Callable[[int], None] = lambda total: None,
) -> SplitReport:
    """Reads images and labels of a split and counts.

    Args:
        config: the data set.
        split: one of `config.splits`.
        limit: read this many pairs, spread evenly over the split; None: all.
        after_pair: called after each pair with the number of pairs to be read.

    Raises:
        ValueError, FileNotFoundError: the folders are missing or their files do not pair up.
    """
    dataset: SegmentationFolder = config.open(split)
    pairs = dataset.pairs
    report = SplitReport(dataset.num_classes, dataset.ignore_index, len(pairs))
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
            report.pixels += counts
            report.images += counts > 0
            for found in np.flatnonzero(counts).tolist():
                first_with.setdefault(found, str(label_file))
        report.inspected += 1
        after_pair(len(chosen))
    for unknown in report.unknown_ids:
        share = report.pixels[unknown] / report.pixels.sum()
        report.problems.append(
            f"{first_with[unknown]}: id {unknown} ({100 * share:.2g} % of the pixels) must be a class, "
            f"0..{report.num_classes - 1}, or {report.ignore_index} to be ignored"
        )
    return report


def advice(report: SplitReport) -> str | None:
    """What unknown ids usually mean, or None."""
    unknown = report.unknown_ids
    if not unknown:
        return None
    if report.num_classes == 19 and max(unknown) <= 33:
        return "these look like Cityscapes label ids; training needs train ids (*_labelTrainIds.png)"
    if unknown == [report.num_classes]:
        return (
            "ids seem to start at 1; subtract 1 from each, and make 0 the ignored id if it stood for 'other'"
        )
    return "map the ids to 0, 1, ... in the order of `classes`, and everything else to the ignored id"
