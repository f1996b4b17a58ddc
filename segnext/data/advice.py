"""Says which line of the data YAML cures values in labels that have no class."""

from __future__ import annotations

import math

from segnext.data.inspection import SplitReport
from segnext.data.keys import IGNORE

# This maps the 34 label ids of Cityscapes to the 19 evaluated classes (labels.py of cityscapesScripts).
CITYSCAPES_CLASSES, CITYSCAPES_LAST_ID = 19, 33
CITYSCAPES_MAP = (
    "{0-6: ignore, 7-8: 0, 9-10: ignore, 11-13: 2, 14-16: ignore, 17: 5, 18: ignore, 19-28: 6, 29-30: ignore, "
    "31-33: 16}"
)
MANY = 24  # more unknown values than this are not forgotten classes
ADD = "add to the data YAML: "


def values_advice(report: SplitReport) -> str:
    """Say what a split's unknown values usually mean and which line cures them."""
    unknown, classes, ignored = sorted(report.unknown), len(report.config.classes), report.config.ignore_index
    if report.reader.has_colours:
        return _colour_advice(report)
    if len(unknown) > MANY:
        return (
            f"{len(unknown)} ids up to {unknown[-1]} look like instances, or like a picture: a label map must hold one "
            "id per class; take other files (label_suffix, or the labels folder), or map each id by label_map"
        )
    if report.reader.is_mapped:
        pairs = ", ".join(f"{label}: {IGNORE}" for label in unknown)
        return (
            f"add to label_map in the data YAML: {pairs}; where such an id is a class, say its number instead"
        )
    if classes == CITYSCAPES_CLASSES and unknown[-1] <= CITYSCAPES_LAST_ID:
        return (
            f"these look like Cityscapes label ids; {ADD}label_map: {CITYSCAPES_MAP}; or take the files of train "
            "ids, if you have made them: label_suffix: _gtFine_labelTrainIds"
        )
    if unknown == [classes] and ignored >= classes:
        return (
            f"ids seem to start at 1; {ADD}label_map: {{0: {IGNORE}, 1-{classes}: 0}}, which ignores 0 and "
            "subtracts 1 from all others"
        )
    in_order = map_in_order(report)
    if in_order:
        return f"there are as many ids as classes; if they stand for these in order, {ADD}{in_order}"
    factor = math.gcd(*(label for label in report.values if label != ignored))
    last = max(label for label in report.values if label != ignored) // max(factor, 1)
    if factor > 1 and last < classes <= ignored:
        pairs = ", ".join(f"{label * factor}: {label}" for label in range(last + 1))
        return (
            f"all ids are multiples of {factor}; if that is how they were stored, {ADD}label_map: {{{pairs}}}"
        )
    known = f"0-{classes - 1}: 0" if ignored >= classes else _around(ignored, classes, ignored + 1)
    return (
        "map the ids by label_map in the data YAML, in the order of `classes`; if the unknown ones are to be "
        f"ignored: label_map: {{{known}, {', '.join(f'{label}: {IGNORE}' for label in unknown)}}}"
    )


def map_in_order(report: SplitReport) -> str | None:
    """Return a label_map of the ids in the files to the classes in order, if there are as many; else None."""
    if report.reader.is_mapped or report.reader.has_colours:
        return None
    classes, ignored = len(report.config.classes), report.config.ignore_index
    found = sorted(report.values)
    if len(found) != classes:
        found = [label for label in found if label != ignored]
    if len(found) != classes or found == list(range(classes)):
        return None
    if ignored < classes and ignored not in found:  # all classes are beside it: it takes the place of none
        targets = {ignored: IGNORE} | {label: str(index) for index, label in enumerate(found)}
        pairs = [f"{label}: {targets[label]}" for label in sorted(targets)]
        return f"label_map: {{{', '.join(pairs)}}} instead of ignore_index"
    pairs = [f"{label}: {IGNORE if index == ignored else index}" for index, label in enumerate(found)]
    return f"label_map: {{{', '.join(pairs)}}}"


def map_without(ignored: int, classes: int) -> str:
    """Return a label_map that ignores one id and closes the gap that it leaves among the classes."""
    return f"label_map: {{{_around(ignored, classes, ignored)}}}"


def _around(ignored: int, classes: int, next_class: int) -> str:
    """Return pairs of a label_map that ignore one id of the classes; the id after it becomes `next_class`."""
    pairs = [f"{ignored}: {IGNORE}"]
    if ignored > 0:
        pairs.insert(0, _range(0, ignored - 1, 0))
    if ignored < classes - 1:
        pairs.append(_range(ignored + 1, classes - 1, next_class))
    return ", ".join(pairs)


def _range(first: int, last: int, target: int) -> str:
    return f"{first}: {target}" if first == last else f"{first}-{last}: {target}"


def _colour_advice(report: SplitReport) -> str:
    unknown = sorted(report.unknown)
    if len(unknown) > MANY:
        return (
            f"{len(unknown)} colours look like a picture, or like masks whose edges were blended: masks must be saved "
            "without losses and without antialiasing"
        )
    ignored = [list(colour) for colour in report.config.ignore_colors]
    colours = ", ".join([*map(str, ignored), *map(report.reader.shown, unknown)])
    return f"if they are no class, say in the data YAML: ignore_colors: [{colours}]"
