"""Judges what was found in a split: each finding is one line, with a file, a number and the setting that cures it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from segnext.data.advice import map_in_order, map_without, values_advice
from segnext.data.fingerprints import near_pairs
from segnext.data.inspection import Misfit, SplitReport
from segnext.data.labels import VOID, percent
from segnext.one_line import one_line

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
LONGEST = 4000  # characters of a line, which may hold two paths
SHOWN = 8  # of ids or classes in one line
SHOWN_PAIRS = 4  # of images that are almost the same


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: "error": training would fail or learn something wrong; "warning": something is wrong, but training is
            possible; "note": good to know.
        text: one line.
        files: all files that it is about, the one in the line first; empty if it is about the whole split.
    """

    level: Level
    text: str
    files: tuple[Path, ...] = ()


def judge(report: SplitReport, others: Sequence[SplitReport] = ()) -> list[Finding]:
    """Return all findings on a split, errors first; `others` are the reports of the data set's other splits."""
    found = [
        *_unreadable(report),
        *_sizes(report),
        *_turns(report),
        *_unknown_values(report),
        *_binary(report, others),
        *_nothing_labelled(report),
        *_ignored_class(report),
        *_absent_classes(report, others),
        *_unlabelled(report),
        *_three_channels(report),
        *_repainted(report),
        *_near_duplicates(report, others),
    ]
    # A file's name may hold a line break.
    lines = [replace(finding, text=one_line(finding.text, LONGEST)) for finding in found]
    return sorted(lines, key=lambda finding: LEVELS.index(finding.level))


def _unreadable(report: SplitReport) -> Iterator[Finding]:
    reasons: dict[str, list[tuple[Path, str]]] = {}
    for file, text in report.unreadable:
        # Details in brackets and numbers differ from file to file; the rest is the kind of fault.
        fault = re.sub(r"\(.*\)|\d+", "", text.removeprefix(str(file)))
        reasons.setdefault(fault, []).append((file, text))
    for faults in reasons.values():
        many = f" ({len(faults)} files are like this)" if len(faults) > 1 else ""
        cure = "" if ";" in faults[0][1] else "; mend such a file, or remove it with its partner"
        yield Finding("error", f"{faults[0][1]}{many}{cure}", tuple(file for file, _ in faults))


def _sizes(report: SplitReport) -> Iterator[Finding]:
    cures: dict[str, list[Misfit]] = {}
    for misfit in report.misfits:
        if misfit.size != misfit.label_size:
            cures.setdefault(_size_cure(misfit, report.reader.upright), []).append(misfit)
    for cure, misfits in cures.items():
        (height, width), (label_height, label_width) = misfits[0].size, misfits[0].label_size
        yield Finding(
            "error",
            f"{misfits[0].label_file}: the label must be {width}x{height} as its image, got {label_width}x"
            f"{label_height}; {_of(misfits, report)} like this; {cure}",
            tuple(misfit.label_file for misfit in misfits),
        )


def _size_cure(misfit: Misfit, upright: bool) -> str:
    if misfit.fits_otherwise:
        other = "exif: ignore" if upright else "exif: apply"
        return f"image and label are of one size as {_DRAWN[other]}: say in the data YAML: {other}"
    if misfit.size == misfit.label_size[::-1]:
        return "height and width are swapped: turn the labels by 90 degrees"
    return "labels are never resized silently: export them at the size of their images"


_DRAWN = {"exif: apply": "EXIF turns them", "exif: ignore": "they are stored, before the turn by EXIF"}


def _turns(report: SplitReport) -> Iterator[Finding]:
    """Say where EXIF turns one file of a pair and not the other, so that a label may lie askew on its image."""
    exif = report.config.exif
    turned = [misfit for misfit in report.misfits if misfit.size == misfit.label_size]
    undecided = [misfit for misfit in turned if exif is None and misfit.fits_otherwise]
    decided = [misfit for misfit in turned if misfit not in undecided]
    if undecided:
        hint = f"; {len(decided)} others fit exif: apply by their sizes" if decided else ""
        yield Finding(
            "error",
            f"{_turn(undecided[0])}; {_of(undecided, report)} like this; say in the data YAML how labels were drawn: "
            f"exif: apply (on the image as viewers show it) or exif: ignore (on its pixels as stored){hint}",
            tuple(misfit.image_file for misfit in undecided),
        )
    if decided:
        why = f"exif: {exif} in the data YAML decides" if exif else "their sizes fit exif: apply"
        yield Finding(
            "note",
            f"{_turn(decided[0])}; {_of(decided, report)} like this; {why}",
            tuple(misfit.image_file for misfit in decided),
        )


def _turn(misfit: Misfit) -> str:
    if misfit.turn == 1:
        return (
            f"{misfit.label_file}: EXIF turns the label (orientation {misfit.label_turn}) and not its image"
        )
    other = "not its label" if misfit.label_turn == 1 else f"its label otherwise ({misfit.label_turn})"
    return f"{misfit.image_file}: EXIF turns the image (orientation {misfit.turn}) and {other}"


def _unknown_values(report: SplitReport) -> Iterator[Finding]:
    unknown, reader, files = sorted(report.unknown), report.reader, report.unknown_in
    if not unknown:
        return
    share = sum(report.values[value] for value in unknown) / sum(report.values.values())
    more = f", ... ({len(unknown)} in all)" if len(unknown) > SHOWN else ""
    yield Finding(
        "error",
        f"{files[0]}: {reader.kind} must {reader.expected}, got {', '.join(map(reader.shown, unknown[:SHOWN]))}{more} "
        f"in {percent(share)} of all pixels; {_of(files, report, 'labels')} like this; {values_advice(report)}",
        tuple(files),
    )


def _binary(report: SplitReport, others: Sequence[SplitReport]) -> Iterator[Finding]:
    """Find masks of 0 and 255, as editors save them, where 255 is the ignored id and so nothing is left to learn."""
    ignored = report.config.ignore_index
    if not _is_binary(report, others):
        return
    file, classes = report.first_with[ignored], report.config.classes
    cure = f"add to the data YAML: label_map: {{0: 0, {ignored}: 1}}"
    if report.reader.is_mapped:
        cure = f"add to label_map in the data YAML: {ignored}: 1"
    name = "" if len(classes) == 2 else "name two classes and "
    knows_train = any(seen.split == "train" for seen in (report, *others))
    yield Finding(
        "error" if knows_train or "train" not in report.config.splits else "warning",
        f"{file}: ids {{0, {ignored}}} look binary, but {ignored} is ignored, so that {classes[1]} never occurs; "
        f"{report.images[ignored]} of {report.inspected} labels hold {ignored}; {name}{cure}",
        (file,),
    )


def _is_binary(report: SplitReport, others: Sequence[SplitReport]) -> bool:
    reader, ignored, label_map = report.reader, report.config.ignore_index, report.config.label_map
    if reader.has_colours or (label_map and (ignored in label_map or label_map.get(0) != 0)):
        return False  # the YAML says what they are
    # A small split may lack all classes but the first, if another one shows that the ignored id means just that.
    is_known = any(other.values[ignored] and other.class_pixels[1:].any() for other in others)
    return ignored == VOID and set(report.values) == {0, 255} and not is_known


def _nothing_labelled(report: SplitReport) -> Iterator[Finding]:
    if report.values and not report.unknown and not report.class_pixels.any():
        found = ", ".join(map(report.reader.shown, sorted(report.values)[:SHOWN]))
        yield Finding(
            "error",
            f"{report.first_with[min(report.values)]}: no pixel of {report.split} has a class that counts, its labels "
            f"hold only {found}; correct ignore_index or label_map in the data YAML",
        )


def _ignored_class(report: SplitReport) -> Iterator[Finding]:
    classes, ignored = report.config.classes, report.config.ignore_index
    if ignored >= len(classes):
        return
    share = report.pixels[ignored] / max(sum(report.values.values()), 1)
    cure = "choose an ignore_index that is no class, such as 255"
    if len(classes) > 2 and not report.reader.is_mapped and not report.reader.has_colours:
        cure = (
            "if it is a class, take ignore_index out of the data YAML; if not, take its name out of classes and say "
            f"{map_without(ignored, len(classes))} instead of ignore_index"
        )
    yield Finding(
        "warning",
        f"{report.split}: class {ignored} ({classes[ignored]}, {percent(share)} of the pixels) is ignore_index "
        f"too, so that it is neither learned nor counted; {cure}",
    )


def _absent_classes(report: SplitReport, others: Sequence[SplitReport]) -> Iterator[Finding]:
    classes, pixels = report.config.classes, report.class_pixels
    absent = [
        name
        for index, name in enumerate(classes)
        if not pixels[index] and index != report.config.ignore_index
    ]
    if not absent or not pixels.any() or report.unknown or _is_binary(report, others):
        return
    named = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
    matters = report.split == "train" and report.is_complete
    which = f"class {named} never occurs" if len(absent) == 1 else f"classes never occur: {named}"
    occurs = (
        f"{report.split}: {len(absent)} of {len(classes)} {which}"
        if len(absent) > 1
        else f"{report.split}: {which}"
    )
    if not matters:
        yield Finding("note", f"{occurs}; no measure has {'it' if len(absent) == 1 else 'them'}")
        return
    other = map_in_order(report)
    hint = (
        f"; if the ids in the files stand for other classes, add to the data YAML: {other}" if other else ""
    )
    yield Finding(
        "warning",
        f"{occurs}, so that the network cannot learn {'it' if len(absent) == 1 else 'them'}; take such names out of "
        f"classes (label_map moves the ids of the others){hint}",
    )


def _unlabelled(report: SplitReport) -> Iterator[Finding]:
    files = report.unlabelled
    if files and report.class_pixels.any():
        yield Finding(
            "warning",
            f"{files[0]}: all pixels of the label are ignored; {_of(files, report, 'labels')} like this; remove "
            "such pairs, or give the ids that they hold a class by label_map in the data YAML",
            tuple(files),
        )


def _three_channels(report: SplitReport) -> Iterator[Finding]:
    files = report.in_three_channels
    if files:
        yield Finding(
            "note",
            f"{files[0]}: the label has three equal channels, which are read as ids; "
            f"{_of(files, report, 'labels')} like this",
            tuple(files),
        )


def _repainted(report: SplitReport) -> Iterator[Finding]:
    """Find indexed images whose editor numbered the colours of each file anew."""
    files = [file for file, _ in report.repainted]
    if files:
        label = report.repainted[0][1]
        first = report.palette[label]
        yield Finding(
            "warning" if report.config.color_labels is None else "note",
            f"{files[0]}: id {label} has another colour in the palette than in other labels, where it is "
            f"{[first >> 16, first >> 8 & 255, first & 255]}; {_of(files, report, 'labels')} like this; say in the "
            "data YAML whether colours are the classes: color_labels: true, with the palette, or: color_labels: false",
            tuple(files),
        )


def _near_duplicates(report: SplitReport, others: Sequence[SplitReport]) -> Iterator[Finding]:
    """Find images of a split to measure on that are almost the same as images to learn from."""
    train = next((other for other in others if other.split == "train"), None)
    if train is None:
        return
    ours, theirs = report.fingerprints, train.fingerprints
    same = near_pairs([own for _, own in ours], [other for _, other in theirs])
    pairs = [(ours[own][0], theirs[other][0]) for own, other in same]
    if pairs:
        more = ", ".join(f"{file.name} and {other.name}" for file, other in pairs[1:SHOWN_PAIRS])
        yield Finding(
            "warning",
            f"{pairs[0][0]}: almost the same image as {pairs[0][1]}, which is in train; "
            f"{len(pairs)} of {report.inspected} images of {report.split} are like this"
            f"{f' ({more})' if more else ''}; what is measured on them is too good: keep such images in one split",
            tuple(file for file, _ in pairs),
        )


def _of(found: list[Misfit] | list[Path], report: SplitReport, what: str = "pairs") -> str:
    return f"{len(found)} of {report.inspected} {what} {'is' if len(found) == 1 else 'are'}"
