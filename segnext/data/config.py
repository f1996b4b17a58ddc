"""A small YAML file describes a data set.

    name: mine
    path: .                       # relative to this file; `--root DIR` replaces it
    train: {images: images/train, labels: labels/train}
    val: {images: images/val, labels: labels/val}
    classes: [road, car]
    # optional:
    palette: [[128, 64, 128], [64, 0, 128]]
    ignore_index: 255             # label id that counts nowhere
    short_side: 360               # pixels of the short side of the images that the network gets
    value_range: [0, 4095]        # the values that become 0 and 255 in images of more than 8 bits per channel
    image_suffix: _leftImg8bit    # ends of the file names, if an image and its label have different ones
    label_suffix: _gtFine_labelIds
    label_map: {0: ignore, 1-150: 0}   # ids in the files to class ids; a range maps to consecutive ones
    color_labels: true            # labels are images of the palette's colours, not of ids
    ignore_colors: [[0, 0, 0]]    # with color_labels: colours that count nowhere
    exif: apply                   # turn each file by its EXIF orientation; ignore: leave its pixels as stored

A split may also name a text file with one file name per line, relative to `path`; only those are taken:

    train: {images: JPEGImages, labels: SegmentationClass, list: ImageSets/Segmentation/train.txt}

Labels are single-channel images of class ids, unless `color_labels` says otherwise.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segnext.data.dataset import SegmentationFolder
from segnext.data.depth import ValueRange, check_range
from segnext.data.labels import IDS, Colour
from segnext.data.preprocessing import LARGEST_SHORT_SIDE
from segnext.drawing.palette import distinct_palette, is_colour
from segnext.one_line import LONGEST_NAME, is_class_name, one_line
from segnext.safe_yaml import read_yaml

SETS = Path(__file__).parent / "sets"
SPLITS = ("train", "val", "test")
KEYS = (
    *("name", "path", *SPLITS, "classes", "palette", "ignore_index", "short_side"),
    *("value_range", "image_suffix", "label_suffix", "label_map", "color_labels", "ignore_colors", "exif"),
)
_QUOTE = "quote what YAML reads as something else (yes, no, 1, ~)"
IGNORE = "ignore"  # stands for the ignored id in a label map, whatever its number


@dataclass(frozen=True)
class Split:
    """The places where the files of one split are.

    Attributes:
        images: folder of images.
        labels: folder of label maps.
        list: text file with the names of the split's files; None: all files of the folders.
    """

    images: Path
    labels: Path
    list: Path | None = None


@dataclass(frozen=True)
class DataConfig:
    """The content of a data YAML, with absolute folders.

    Attributes:
        name: short name of the data set.
        classes: class names; a label's id is the index here.
        palette: one (red, green, blue) per class.
        ignore_index: label id that is not counted, 0..255.
        splits: splits by name ("train", "val", ...).
        short_side: pixels of the short side at which the network sees the images; None: native size.
        value_range: the values that become 0 and 255 in images of more than 8 bits; None: as the files say.
        image_suffix: end of the images' names that their labels' names lack.
        label_suffix: end of the labels' names that their images' names lack.
        label_map: ids in the files to class ids or `ignore_index`; None: they are class ids already.
        color_labels: the labels hold the palette's colours instead of ids; None: the YAML does not say, they hold ids.
        ignore_colors: colours in the labels that are not counted.
        exif: "apply": each image and each label is turned by its own EXIF orientation; "ignore": none is; None: the
            YAML does not say, which is "apply".
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore_index: int
    splits: dict[str, Split]
    short_side: int | None = None
    value_range: ValueRange | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    label_map: dict[int, int] | None = field(default=None, hash=False)
    color_labels: bool | None = None
    ignore_colors: tuple[Colour, ...] = ()
    exif: str | None = None

    def open(self, split: str) -> SegmentationFolder:
        """Open one split.

        Raises:
            ValueError: no such split, or its files do not pair up.
            FileNotFoundError: a folder or a list is missing.
        """
        if split not in self.splits:
            raise ValueError(
                f"data: split must be one of {', '.join(self.splits)} for {self.name}, got {split}; "
                "name its folders in the data YAML"
            )
        files = self.splits[split]
        return SegmentationFolder(
            files.images,
            files.labels,
            len(self.classes),
            ignore_index=self.ignore_index,
            label_map=self.label_map,
            colours=self._colours() if self.color_labels else None,
            upright=self.exif != "ignore",
            image_suffix=self.image_suffix,
            label_suffix=self.label_suffix,
            names=files.list,
            value_range=self.value_range,
        )

    def reading_of_labels(self) -> dict[str, Any]:
        """Return what decides which class each pixel of a label file is, in the form in which JSON gives it back."""
        return {
            "ignore_index": self.ignore_index,
            "label_map": None if self.label_map is None else sorted(map(list, self.label_map.items())),
            "colors": sorted([list(c), i] for c, i in self._colours().items()) if self.color_labels else None,
            "exif": self.exif or "apply",
        }

    def _colours(self) -> dict[Colour, int]:
        return {colour: self.ignore_index for colour in self.ignore_colors} | {
            colour: index for index, colour in enumerate(self.palette)
        }


def list_sets() -> list[str]:
    """Return the names of the data sets whose YAML ships with the package."""
    return sorted(path.stem for path in SETS.glob("*.yaml"))


def load_data_config(name_or_path: str | Path, root: str | Path | None = None) -> DataConfig:
    """Read a data YAML.

    Args:
        name_or_path: name of a shipped data set (`list_sets()`) or the path of a YAML file.
        root: folder that the splits' folders are relative to; replaces the YAML's `path`.

    Raises:
        FileNotFoundError: it is neither a shipped name nor a file.
        ValueError: the YAML lacks something or holds something unexpected.
    """
    path = Path(os.path.expanduser(name_or_path))
    if str(name_or_path) in list_sets():
        path = SETS / f"{name_or_path}.yaml"
    elif not path.is_file():
        raise FileNotFoundError(
            f"data: DATA must be a YAML file or one of {', '.join(list_sets())}, got {name_or_path}; "
            f"{'it is a folder, a pipe or a device' if path.exists() else 'no such file'}"
        )
    content = _read(path)
    if root is None and "path" not in content:
        raise ValueError(
            f"data: {path.stem} must be told its folder; add --root DIR (the data set lies in DIR)"
        )
    base = (
        Path(os.path.expanduser(root))
        if root is not None
        else path.parent / _place(content["path"], "path", path)
    )
    classes = _classes(content, path)
    ignore_index = _ignore_index(content, path)
    return DataConfig(
        name=_name(content, path),
        classes=classes,
        palette=_palette(content, path, len(classes)),
        ignore_index=ignore_index,
        splits=_splits(content, path, base),
        short_side=_short_side(content, path),
        value_range=_value_range(content, path),
        image_suffix=_suffix(content, path, "image_suffix"),
        label_suffix=_suffix(content, path, "label_suffix"),
        label_map=_label_map(content, path, len(classes), ignore_index),
        color_labels=_color_labels(content, path),
        ignore_colors=_ignore_colors(content, path),
        exif=_exif(content, path),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"data: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"data: {path} must be a YAML mapping with 'train' and 'classes', got {_shown(content)}"
        )
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        raise ValueError(
            f"data: keys in {path} must be among {', '.join(KEYS)}, got {unknown[0]!r}; correct or remove it"
        )
    return content


def _name(content: dict[str, Any], path: Path) -> str:
    name = content.get("name", path.stem)
    if type(name) not in (str, int):
        raise ValueError(f"data: name in {path} must be text, got {_shown(name)}; {_QUOTE}")
    return str(name)


def _place(given: object, what: str, path: Path) -> Path:
    """Return a file or a folder that a YAML names."""
    if type(given) not in (str, int):  # a folder's name may be a number
        raise ValueError(f"data: {what} in {path} must be a path, got {_shown(given)}; {_QUOTE}")
    try:
        return Path(str(given)).expanduser()
    except RuntimeError:
        raise ValueError(
            f"data: {what} in {path} must be a path, got {_shown(given)}, a home that is not known; name the folder"
        ) from None


def _classes(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    classes = content.get("classes")
    if not isinstance(classes, list) or not 2 <= len(classes) <= 255:
        is_single = isinstance(classes, list) and len(classes) == 1
        cure = "a single class needs a second one for everything else"
        raise ValueError(
            f"data: classes in {path} must be a list of 2 to 255 names, got {_shown(classes)}; "
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


def _palette(content: dict[str, Any], path: Path, num_classes: int) -> tuple[Colour, ...]:
    palette = content.get("palette", distinct_palette(num_classes).tolist())
    if not isinstance(palette, list) or len(palette) != num_classes or not all(map(is_colour, palette)):
        count = f"{len(palette)} entries, " if isinstance(palette, list) else ""
        raise ValueError(
            f"data: palette in {path} must be {num_classes} lists [red, green, blue] of 0..255, one per class, "
            f"got {count}{_shown(palette)}; leave it out for default colours"
        )
    return tuple((red, green, blue) for red, green, blue in palette)


def _ignore_index(content: dict[str, Any], path: Path) -> int:
    ignore_index = content.get("ignore_index", 255)
    if type(ignore_index) is not int or not 0 <= ignore_index <= 255:
        raise ValueError(
            f"data: ignore_index in {path} must be 0..255, got {_shown(ignore_index)}; leave it out for 255"
        )
    return ignore_index


def _short_side(content: dict[str, Any], path: Path) -> int | None:
    short_side = content.get("short_side")
    if short_side is not None and (type(short_side) is not int or not 1 <= short_side <= LARGEST_SHORT_SIDE):
        raise ValueError(
            f"data: short_side in {path} must be 1 to {LARGEST_SHORT_SIDE} pixels, got {_shown(short_side)}"
        )
    return short_side


def _value_range(content: dict[str, Any], path: Path) -> ValueRange | None:
    given = content.get("value_range")
    if given is None:
        return None
    if not isinstance(given, list) or not all(type(value) in (int, float) for value in given):
        raise ValueError(
            f"data: value_range in {path} must be two numbers such as [0, 4095], got {_shown(given)}"
        )
    check_range(f"data: {path}", tuple(given))
    return given[0], given[1]


def _suffix(content: dict[str, Any], path: Path, key: str) -> str:
    suffix = content.get(key)
    if suffix is not None and (not isinstance(suffix, str) or "/" in suffix):
        raise ValueError(
            f"data: {key} in {path} must be the end of a file name, such as _gtFine_labelIds, got {_shown(suffix)}"
        )
    return suffix or ""


def _label_map(
    content: dict[str, Any], path: Path, num_classes: int, ignore_index: int
) -> dict[int, int] | None:
    """Return all pairs of the map; ``1-150: 0`` stands for 1: 0, 2: 1, ..."""
    given = content.get("label_map")
    if given is None:
        return None
    if not isinstance(given, dict) or not given:
        raise ValueError(
            f"data: label_map in {path} must map ids to class ids, such as {{0: ignore, 1-150: 0}}, "
            f"got {_shown(given)}"
        )
    pairs: dict[int, int] = {}
    for key, value in given.items():
        ids, target = _id_range(key), ignore_index if value == IGNORE else value
        if ids is None or type(target) is not int:
            raise ValueError(
                f"data: label_map in {path} must map an id 0..{IDS - 1} or a range such as 1-150 to a class id or "
                f"to ignore, got {_shown(key)}: {_shown(value)}"
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


def _color_labels(content: dict[str, Any], path: Path) -> bool | None:
    given = content.get("color_labels")
    if not isinstance(given, bool | None):
        raise ValueError(f"data: color_labels in {path} must be true or false, got {_shown(given)}")
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


def _ignore_colors(content: dict[str, Any], path: Path) -> tuple[Colour, ...]:
    given = content.get("ignore_colors", [])
    if not isinstance(given, list) or not all(map(is_colour, given)):
        raise ValueError(
            f"data: ignore_colors in {path} must be lists [red, green, blue] of 0..255, got {_shown(given)}"
        )
    if given and not content.get("color_labels"):
        raise ValueError(
            f"data: ignore_colors in {path} must stand beside color_labels: true, got {_shown(given)} alone; ids are "
            "ignored by ignore_index or label_map"
        )
    classes = [colour for colour in given if colour in content.get("palette", [])]
    if classes:
        raise ValueError(
            f"data: ignore_colors in {path} must be no class's colour, got {classes[0]}, which is in the palette"
        )
    return tuple((red, green, blue) for red, green, blue in given)


def _exif(content: dict[str, Any], path: Path) -> str | None:
    exif = content.get("exif")
    if exif not in (None, "apply", "ignore"):
        raise ValueError(
            f"data: exif in {path} must be apply (turn images and labels by their EXIF orientation) or ignore, "
            f"got {_shown(exif)}"
        )
    return exif


def _id_range(key: object) -> range | None:
    """Return the ids of 7 or of "1-150"; None for anything else."""
    ends = re.fullmatch(r"(\d+)\s*-\s*(\d+)", key) if isinstance(key, str) else None
    first, last = (int(ends[1]), int(ends[2])) if ends else (key, key)
    if type(first) is not int or type(last) is not int or not 0 <= first <= last < IDS:
        return None
    return range(first, last + 1)


def _splits(content: dict[str, Any], path: Path, base: Path) -> dict[str, Split]:
    named = {split: content[split] for split in SPLITS if content.get(split) is not None}
    if not named:
        raise ValueError(f"data: {path} must name the folders of {' or '.join(SPLITS)}, got none of them")
    for split, places in named.items():
        if not isinstance(places, dict) or places.keys() - {"list"} != {"images", "labels"}:
            raise ValueError(
                f"data: {split} in {path} must be {{images: DIR, labels: DIR}}, got {_shown(places)}; "
                "list: FILE beside them names its files, where the folders hold others too"
            )
    return {
        split: Split(
            **{key: base / _place(place, f"{key} of {split}", path) for key, place in places.items()}
        )
        for split, places in named.items()
    }


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
