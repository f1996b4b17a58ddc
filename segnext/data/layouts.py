"""Says where the files of a data set's splits are, and in which of its layouts it lies on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segnext.data.keys import QUOTE, read_place, shown
from segnext.data.labels import LABEL_SUFFIXES
from segnext.data.pairing import holds_files

SPLITS = ("train", "val", "test")
LAYOUT_KEYS = (
    *("path", *SPLITS, "palette", "image_suffix", "label_suffix", "label_map"),
    *("color_labels", "ignore_colors"),
)


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

    def lacks(self, label_suffix: str) -> str | None:
        """Say what is missing on disk, such as "no folder /data/images"; None: the split can be opened.

        Raises:
            ValueError: a folder of labels cannot be read.
        """
        for folder in (self.images, self.labels):
            if not folder.is_dir():
                return f"no folder {folder}"
        if self.list is not None and not self.list.is_file():
            return f"no list {self.list}"
        if not holds_files(self.labels, LABEL_SUFFIXES, label_suffix):
            return f"no labels{f' *{label_suffix}' if label_suffix else ''} in {self.labels}"
        return None


def read_splits(content: dict[str, Any], path: Path, base: Path) -> dict[str, Split]:
    """Return the splits that a YAML names; their places are relative to `base`.

    Raises:
        ValueError: it names none, or one lacks a folder.
    """
    named = {split: content[split] for split in SPLITS if content.get(split) is not None}
    if not named:
        raise ValueError(f"data: {path} must name the folders of {' or '.join(SPLITS)}, got none of them")
    for split, places in named.items():
        if not isinstance(places, dict) or places.keys() - {"list"} != {"images", "labels"}:
            raise ValueError(
                f"data: {split} in {path} must be {{images: DIR, labels: DIR}}, got {shown(places)}; "
                "list: FILE beside them names its files, where the folders hold others too"
            )
    return {
        split: Split(
            **{key: base / read_place(place, f"{key} of {split}", path) for key, place in places.items()}
        )
        for split, places in named.items()
    }


def read_layouts(content: dict[str, Any], path: Path, base: Path) -> list[tuple[dict[str, Any], Path]]:
    """Return the keys that count in each layout, and the folder that its splits are relative to.

    Raises:
        ValueError: `layouts` is no list of mappings, or one holds a key that no layout has.
    """
    layouts = content.get("layouts")
    if layouts is None:
        return [(content, base)]
    if not isinstance(layouts, list) or not layouts or not all(isinstance(keys, dict) for keys in layouts):
        raise ValueError(
            f"data: layouts in {path} must be a list of mappings such as {{path: VOC2012}}, got {shown(layouts)}; "
            f"{QUOTE}"
        )
    unknown = [key for keys in layouts for key in keys if key not in LAYOUT_KEYS]
    if unknown:
        raise ValueError(
            f"data: keys of a layout in {path} must be among {', '.join(LAYOUT_KEYS)}, got {unknown[0]!r}; "
            "move it out of the layouts, or correct it"
        )
    return [
        (content | keys, base / read_place(keys.get("path", "."), "path of a layout", path))
        for keys in layouts
    ]
