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
    bands: [0, 1, 2, 3]           # bands of TIFF files that are the network's channels, from 0; without: RGB
    mean: [118, 121, 103, 90]     # per channel, after value_range became 0..255; without: the weights' or ImageNet's
    std: [60, 58, 57, 48]
    image_suffix: _leftImg8bit    # ends of the file names, if an image and its label have different ones
    label_suffix: _gtFine_labelIds
    label_map: {0: ignore, 1-150: 0}   # ids in the files to class ids; a range maps to consecutive ones
    color_labels: true            # labels are images of the palette's colours, not of ids
    ignore_colors: [[0, 0, 0]]    # with color_labels: colours that count nowhere
    exif: apply                   # turn each file by its EXIF orientation; ignore: leave its pixels as stored

A split may also name a text file with one file name per line, relative to `path`; only those are taken:

    train: {images: JPEGImages, labels: SegmentationClass, list: ImageSets/Segmentation/train.txt}

A data set that people keep in several ways has layouts. The first one that lies on disk is taken; its keys replace
those above. A layout may hold path (below the data set's folder), train, val, test, palette and the keys of labels:

    layouts:
      - {path: VOCdevkit/VOC2012}
      - {label_suffix: _ids, label_map: {0: ignore, 1-20: 0}}
    source: https://example.org       # shown if no layout lies there

Labels are single-channel images of class ids, unless `color_labels` says otherwise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segnext.data import keys
from segnext.data.bands import Bands
from segnext.data.dataset import SegmentationFolder
from segnext.data.depth import ValueRange
from segnext.data.labels import Colour
from segnext.data.layouts import SPLITS, Split, read_layouts, read_splits
from segnext.data.preprocessing import Preprocessing
from segnext.data.shipped import SETS, list_sets
from segnext.safe_yaml import read_yaml

KEYS = (
    *("name", "path", *SPLITS, "layouts", "source", "classes", "palette", "ignore_index", "short_side"),
    *("value_range", "bands", "mean", "std"),
    *("image_suffix", "label_suffix", "label_map", "color_labels", "ignore_colors", "exif"),
)


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
        bands: the bands of the files that are the network's channels; None: RGB.
        mean: of each channel, on the 0..255 scale; None: the weights'.
        std: likewise.
        image_suffix: end of the images' names that their labels' names lack.
        label_suffix: end of the labels' names that their images' names lack.
        label_map: ids in the files to class ids or `ignore_index`; None: they are class ids already.
        color_labels: the labels hold the palette's colours instead of ids; None: the YAML does not say, they hold ids.
        ignore_colors: colours in the labels that are not counted.
        exif: "apply": each image and each label is turned by its own EXIF orientation; "ignore": none is; None: the
            YAML does not say, which is "apply".
        source: where the files come from, in words; an error about missing ones says it.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore_index: int
    splits: dict[str, Split]
    short_side: int | None = None
    value_range: ValueRange | None = None
    bands: Bands | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    label_map: dict[int, int] | None = field(default=None, hash=False)
    color_labels: bool | None = None
    ignore_colors: tuple[Colour, ...] = ()
    exif: str | None = None
    source: str = ""

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
        lacks = files.lacks(self.label_suffix) if self.source else None
        if lacks is not None:
            raise FileNotFoundError(f"data: {split} of {self.name} must be there, got {lacks}; {self.source}")
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
            bands=self.bands,
        )

    def preprocessing(self, of_weights: Preprocessing) -> Preprocessing:
        """Return the input of a network that starts from weights and is trained on these data."""
        return replace(
            of_weights,
            mean=self.mean or of_weights.mean,
            std=self.std or of_weights.std,
            short_side=self.short_side,
            value_range=self.value_range or of_weights.value_range,
            bands=self.bands or of_weights.bands,
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


def load_data_config(name_or_path: str | Path, root: str | Path | None = None) -> DataConfig:
    """Read a data YAML, and find out in which of its layouts the data set lies on disk.

    Args:
        name_or_path: name of a shipped data set (`list_sets()`) or the path of a YAML file.
        root: folder that the splits' folders are relative to; replaces the YAML's `path`.

    Raises:
        FileNotFoundError: it is neither a shipped name nor a file, or the data set lies there in none of its layouts.
        ValueError: the YAML lacks something or holds something unexpected.
    """
    path = _file(name_or_path)
    content = _read(path)
    if root is None and "path" not in content:
        own = "" if str(name_or_path) in list_sets() else f", or the line path: . to {path} (it lies there)"
        raise ValueError(
            f"data: {path.stem} must be told its folder; add --root DIR (the data set lies in DIR){own}"
        )
    base = (
        Path(os.path.expanduser(root))
        if root is not None
        else path.parent / keys.read_place(content["path"], "path", path)
    )
    configs = [_config(layout, path, folder) for layout, folder in read_layouts(content, path, base)]
    return configs[0] if content.get("layouts") is None else _lying_there(configs, base)


def load_classes(name_or_path: str | Path) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Return the class names and the palette of a data YAML, whose files need not be there; raises as above."""
    path = _file(name_or_path)
    content = _read(path)
    classes = keys.read_classes(content, path)
    return classes, keys.read_palette(content, path, len(classes))


def _file(name_or_path: str | Path) -> Path:
    path = Path(os.path.expanduser(name_or_path))
    if str(name_or_path) in list_sets():
        return SETS / f"{name_or_path}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"data: DATA must be a YAML file or one of {', '.join(list_sets())}, got {name_or_path}; "
            f"{'it is a folder, a pipe or a device' if path.exists() else 'no such file'}"
        )
    return path


def _config(content: dict[str, Any], path: Path, base: Path) -> DataConfig:
    classes = keys.read_classes(content, path)
    ignore_index = keys.read_ignore_index(content, path)
    return DataConfig(
        name=keys.read_name(content, path),
        classes=classes,
        palette=keys.read_palette(content, path, len(classes)),
        ignore_index=ignore_index,
        splits=read_splits(content, path, base),
        short_side=keys.read_short_side(content, path),
        value_range=keys.read_value_range(content, path),
        **keys.read_channels(content, path),
        image_suffix=keys.read_suffix(content, path, "image_suffix"),
        label_suffix=keys.read_suffix(content, path, "label_suffix"),
        label_map=keys.read_label_map(content, path, len(classes), ignore_index),
        color_labels=keys.read_color_labels(content, path),
        ignore_colors=keys.read_ignore_colors(content, path),
        exif=keys.read_exif(content, path),
        source=keys.read_source(content, path),
    )


def _lying_there(configs: list[DataConfig], base: Path) -> DataConfig:
    """Return the first layout that is whole on disk, else the first that has one split, such as val alone.

    Raises:
        FileNotFoundError: no layout has a split there.
    """
    lacking = [[files.lacks(config.label_suffix) for files in config.splits.values()] for config in configs]
    for is_there in (lambda gaps: not any(gaps), lambda gaps: not all(gaps)):
        for config, gaps in zip(configs, lacking, strict=True):
            if is_there(gaps):
                return config
    # Each once, in order; the first split stands for all.
    looked_for = dict.fromkeys(str(gaps[0]).replace(f"{base}{os.sep}", "") for gaps in lacking)
    config = configs[0]
    raise FileNotFoundError(
        f"data: {config.name} must lie in {base} in one of its layouts, got {', '.join(looked_for)}"
        f"{'; ' + config.source if config.source else ''}; give the data set's folder with --root"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"data: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"data: {path} must be a YAML mapping with 'train' and 'classes', got {keys.shown(content)}"
        )
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        raise ValueError(
            f"data: keys in {path} must be among {', '.join(KEYS)}, got {unknown[0]!r}; correct or remove it"
        )
    return content
