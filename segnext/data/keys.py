"""Checks the value of each key of a data YAML, whose file is `path` in all messages."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from segnext.data.depth import ValueRange, check_range
from segnext.data.labels import IDS, Colour
from segnext.data.preprocessing import LARGEST_SHORT_SIDE, MOST_BANDS
from segnext.drawing.palette import distinct_palette, is_colour
from segnext.one_line import LONGEST_NAME, is_class_name, one_line

IGNORE = "ignore"  # stands for the ignored id in a label map, whatever its number
QUOTE = "quote what YAML reads as something else (yes, no, 1, ~)"


def read_name(content: dict[str, Any], path: Path) -> str:
    """Return the short name; the file's stem if there is none."""
    name = content.get("name", path.stem)
    if type(name) not in (str, int):
        raise ValueError(f"data: name in {path} must be text, got {shown(name)}; {QUOTE}")
    return str(name)


def read_place(given: object, what: str, path: Path) -> Path:
    """Return a file or a folder that a YAML names."""
    if type(given) not in (str, int):  # a folder's name may be a number
        raise ValueError(f"data: {what} in {path} must be a path, got {shown(given)}; {QUOTE}")
    try:
        return Path(str(given)).expanduser()
    except RuntimeError:
        raise ValueError(
            f"data: {what} in {path} must be a path, got {shown(given)}, a home that is not known; name the folder"
        ) from None


def read_classes(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Return the class names."""
    classes = content.get("classes")
    if not isinstance(classes, list) or not 2 <= len(classes) <= 255:
        is_single = isinstance(classes, list) and len(classes) == 1
        cure = "a single class needs a second one for everything else"
        raise ValueError(
            f"data: classes in {path} must be a list of 2 to 255 names, got {shown(classes)}; "
            f"{cure if is_single else 'name them in the order of their ids: [road, car]'}"
        )
    for name in classes:
        if not is_class_name(name) or classes.count(name) > 1:
            raise ValueError(
                f"data: classes in {path} must be names of at most {LONGEST_NAME} letters, each there once, got "
                f"{one_line(repr(name))}; "
                "quote what YAML reads as something else (yes, no, 1)"
            )
    return tuple(classes)


def read_palette(content: dict[str, Any], path: Path, num_classes: int) -> tuple[Colour, ...]:
    """Return one colour per class, by default distinct ones."""
    palette = content.get("palette", distinct_palette(num_classes).tolist())
    if not isinstance(palette, list) or len(palette) != num_classes or not all(map(is_colour, palette)):
        count = f"{len(palette)} entries, " if isinstance(palette, list) else ""
        raise ValueError(
            f"data: palette in {path} must be {num_classes} lists [red, green, blue] of 0..255, one per class, "
            f"got {count}{shown(palette)}; leave it out for default colours"
        )
    return tuple((red, green, blue) for red, green, blue in palette)


def read_ignore_index(content: dict[str, Any], path: Path) -> int:
    """Return the id that counts nowhere."""
    ignore_index = content.get("ignore_index", 255)
    if type(ignore_index) is not int or not 0 <= ignore_index <= 255:
        raise ValueError(
            f"data: ignore_index in {path} must be 0..255, got {shown(ignore_index)}; leave it out for 255"
        )
    return ignore_index


def read_short_side(content: dict[str, Any], path: Path) -> int | None:
    """Return the pixels of the short side at which the network sees the images."""
    short_side = content.get("short_side")
    if short_side is not None and (type(short_side) is not int or not 1 <= short_side <= LARGEST_SHORT_SIDE):
        raise ValueError(
            f"data: short_side in {path} must be 1 to {LARGEST_SHORT_SIDE} pixels, got {shown(short_side)}"
        )
    return short_side


def read_channels(content: dict[str, Any], path: Path) -> dict[str, tuple[Any, ...] | None]:
    """Return bands, mean and std, which have one number per channel."""
    bands, mean, std = (content.get(name) for name in ("bands", "mean", "std"))
    if bands is not None and not (
        isinstance(bands, list)
        and bands
        and all(type(band) is int and 0 <= band < MOST_BANDS for band in bands)
    ):
        raise ValueError(
            f"data: bands in {path} must be numbers of bands from 0, such as [0, 1, 2, 3], got {shown(bands)}"
        )
    channels = 3 if bands is None else len(bands)
    if (mean is None) != (std is None) or (mean is None and channels != 3):
        raise ValueError(
            f"data: mean and std in {path} must both be there{'' if bands is None else ' beside bands'}, got "
            f"{shown(mean)} and {shown(std)}; say {channels} numbers each, for values of 0..255"
        )
    for name, given in (("mean", mean), ("std", std)):
        least = 0 if name == "std" else -math.inf
        if given is not None and not (
            isinstance(given, list)
            and len(given) == channels
            and all(type(number) in (int, float) and least < number < math.inf for number in given)
        ):
            raise ValueError(
                f"data: {name} in {path} must be {channels} numbers{' above 0' if name == 'std' else ''}, one per "
                f"channel, for values of 0..255, got {shown(given)}"
            )
    return {"bands": bands and tuple(bands), "mean": mean and tuple(mean), "std": std and tuple(std)}


def read_value_range(content: dict[str, Any], path: Path) -> ValueRange | None:
    """Return the values that become 0 and 255 in images of more than 8 bits."""
    given = content.get("value_range")
    if given is None:
        return None
    if not isinstance(given, list) or not all(type(value) in (int, float) for value in given):
        raise ValueError(
            f"data: value_range in {path} must be two numbers such as [0, 4095], got {shown(given)}"
        )
    check_range(f"data: {path}", tuple(given))
    return given[0], given[1]


def read_suffix(content: dict[str, Any], path: Path, key: str) -> str:
    """Return the end of the file names that `key` says."""
    suffix = content.get(key)
    if suffix is not None and (not isinstance(suffix, str) or "/" in suffix):
        raise ValueError(
            f"data: {key} in {path} must be the end of a file name, such as _gtFine_labelIds, got {shown(suffix)}"
        )
    return suffix or ""


def read_label_map(
    content: dict[str, Any], path: Path, num_classes: int, ignore_index: int
) -> dict[int, int] | None:
    """Return all pairs of the map; ``1-150: 0`` stands for 1: 0, 2: 1, ..."""
    given = content.get("label_map")
    if given is None:
        return None
    if not isinstance(given, dict) or not given:
        raise ValueError(
            f"data: label_map in {path} must map ids to class ids, such as {{0: ignore, 1-150: 0}}, "
            f"got {shown(given)}"
        )
    pairs: dict[int, int] = {}
    for key, value in given.items():
        ids, target = _id_range(key), ignore_index if value == IGNORE else value
        if ids is None or type(target) is not int:
            raise ValueError(
                f"data: label_map in {path} must map an id 0..{IDS - 1} or a range such as 1-150 to a class id or "
                f"to ignore, got {shown(key)}: {shown(value)}"
            )
        counts_up = value != IGNORE and target != ignore_index
        for step, label in enumerate(ids):
            mapped = target + step if counts_up else target
            if mapped != ignore_index and not 0 <= mapped < num_classes:
                raise ValueError(
                    f"data: label_map in {path} must map to classes 0..{num_classes - 1} or to ignore, got "
                    f"{label}: {mapped}; name all classes, or correct it"
                )
            if value != IGNORE and mapped == ignore_index < num_classes:
                raise ValueError(
                    f"data: label_map in {path} must not map to a class that is ignored, got {label}: {mapped} and "
                    f"ignore_index {ignore_index}; write ignore, or choose an ignore_index that is no class"
                )
            if label in pairs:
                raise ValueError(
                    f"data: label_map in {path} must name each id once, got {label} twice; remove one of them"
                )
            pairs[label] = mapped
    return pairs


def read_color_labels(content: dict[str, Any], path: Path) -> bool | None:
    """Return whether labels hold colours; None: the YAML does not say."""
    given = content.get("color_labels")
    if not isinstance(given, bool | None):
        raise ValueError(f"data: color_labels in {path} must be true or false, got {shown(given)}")
    if given and content.get("label_map") is not None:
        raise ValueError(
            f"data: {path} must say label_map or color_labels, got both; the palette says what each colour is"
        )
    if not given:
        return given
    palette = content.get("palette")
    if palette is None:
        raise ValueError(
            f"data: palette in {path} must say the colour of each class in the labels, got none; color_labels needs it"
        )
    twice = [colour for colour in palette if palette.count(colour) > 1]
    if twice:
        raise ValueError(
            f"data: colours of the palette in {path} must differ, got {twice[0]} twice; color_labels tells the classes "
            "apart by them"
        )
    return True


def read_ignore_colors(content: dict[str, Any], path: Path) -> tuple[Colour, ...]:
    """Return the colours that count nowhere."""
    given = content.get("ignore_colors", [])
    if not isinstance(given, list) or not all(map(is_colour, given)):
        raise ValueError(
            f"data: ignore_colors in {path} must be lists [red, green, blue] of 0..255, got {shown(given)}"
        )
    if given and not content.get("color_labels"):
        raise ValueError(
            f"data: ignore_colors in {path} must stand beside color_labels: true, got {shown(given)} alone; ids are "
            "ignored by ignore_index or label_map"
        )
    classes = [colour for colour in given if colour in content.get("palette", [])]
    if classes:
        raise ValueError(
            f"data: ignore_colors in {path} must be no class's colour, got {classes[0]}, which is in the palette"
        )
    return tuple((red, green, blue) for red, green, blue in given)


def read_source(content: dict[str, Any], path: Path) -> str:
    """Return where the files come from, in words."""
    source = content.get("source", "")
    if not isinstance(source, str):
        raise ValueError(
            f"data: source in {path} must be text that says where the files come from, got {shown(source)}; {QUOTE}"
        )
    return source


def read_exif(content: dict[str, Any], path: Path) -> str | None:
    """Return what EXIF orientations do; None: the YAML does not say."""
    exif = content.get("exif")
    if exif not in (None, "apply", "ignore"):
        raise ValueError(
            f"data: exif in {path} must be apply (turn images and labels by their EXIF orientation) or ignore, "
            f"got {shown(exif)}"
        )
    return exif


def _id_range(key: object) -> range | None:
    """Return the ids of 7 or of "1-150"; None for anything else."""
    ends = re.fullmatch(r"(\d+)\s*-\s*(\d+)", key) if isinstance(key, str) else None
    first, last = (int(ends[1]), int(ends[2])) if ends else (key, key)
    if type(first) is not int or type(last) is not int or not 0 <= first <= last < IDS:
        return None
    return range(first, last + 1)


def shown(value: object) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
