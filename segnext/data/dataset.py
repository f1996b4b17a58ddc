"""Data sets as two folders with equal file stems, described by a small YAML file.

    name: mine
    path: .                       # relative to this file; `--root DIR` replaces it
    train: {images: images/train, labels: labels/train}
    val: {images: images/val, labels: labels/val}
    classes: [road, car]
    palette: [[128, 64, 128], [64, 0, 128]]       # optional
    ignore_index: 255                             # optional
    short_side: 360                               # optional: what `segnext predict` resizes photographs to

Labels are single-channel images of class ids; `ignore_index` marks pixels that count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from segnext.data.images import IMAGE_SUFFIXES, read_image, read_label
from segnext.drawing.palette import distinct_palette

RECIPES = Path(__file__).parent / "sets"
SPLITS = ("train", "val", "test")
KEYS = ("name", "path", *SPLITS, "classes", "palette", "ignore_index", "short_side")
LABEL_SUFFIXES = frozenset({".bmp", ".gif", ".pgm", ".png", ".tif", ".tiff"})  # lossless ones
# Decoded images are kept up to this size: CamVid's training split takes 0.25 GB, and decoding
# it again would cost more than all augmentation.
CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class DataConfig:
    """What a data YAML says, with its folders made absolute.

    Attributes:
        name: short name of the data set.
        classes: class names; a label's id is the index here.
        palette: one (red, green, blue) for each class.
        ignore_index: label id that is not counted, 0..255.
        splits: split name ("train", "val", ...) to its (images, labels) folders.
        short_side: pixels of the short side that weights trained on it expect in prediction; None: any.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    splits: dict[str, tuple[Path, Path]]
    short_side: int | None = None

    def open(self, split: str) -> SegmentationFolder:
        """Open one split.

        Raises:
            ValueError: no such split, or its files do not pair up.
            FileNotFoundError: a folder is missing.
        """
        if split not in self.splits:
            raise ValueError(
                f"data: split must be one of {', '.join(self.splits)} for {self.name}, got {split}; "
                "name its folders in the data YAML"
            )
        images, labels = self.splits[split]
        return SegmentationFolder(images, labels, len(self.classes), ignore_index=self.ignore_index)


def list_recipes() -> list[str]:
    """Names of the data sets whose YAML ships with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_data_config(name_or_path: str | Path, root: str | Path | None = None) -> DataConfig:
    """Read a data YAML.

    Args:
        name_or_path: a shipped recipe's name (`list_recipes()`) or the path of a YAML file.
        root: folder that the splits' folders are relative to; replaces the YAML's `path`.

    Raises:
        FileNotFoundError: neither a recipe nor a file.
        ValueError: the YAML lacks something or holds something unexpected.
    """
    path = Path(name_or_path)
    if str(name_or_path) in list_recipes():
        path = RECIPES / f"{name_or_path}.yaml"
    elif not path.is_file():
        raise FileNotFoundError(
            f"data: DATA must be a YAML file or one of {', '.join(list_recipes())}, got {name_or_path}; "
            "no such file"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"data: {path} must be YAML; {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"data: {path} must be a YAML mapping with 'train' and 'classes', got {_shown(content)}"
        )
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        raise ValueError(
            f"data: keys in {path} must be among {', '.join(KEYS)}, got {unknown[0]!r}; correct or remove it"
        )
    if root is None and "path" not in content:
        raise ValueError(
            f"data: {path.stem} must be told its folder; add --root DIR (the data set lies in DIR)"
        )
    base = Path(root) if root is not None else path.parent / Path(str(content["path"])).expanduser()
    classes = _classes(content, path)
    return DataConfig(
        name=str(content.get("name", path.stem)),
        classes=classes,
        palette=_palette(content, path, len(classes)),
        ignore_index=_ignore_index(content, path),
        splits=_splits(content, path, base),
        short_side=_short_side(content, path),
    )


def _classes(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    classes = content.get("classes")
    if not isinstance(classes, list) or not 2 <= len(classes) <= 255:
        raise ValueError(
            f"data: classes in {path} must be a list of 2 to 255 names, got {_shown(classes)}; "
            "a single class needs a second one for everything else"
        )
    for name in classes:
        if not isinstance(name, str) or classes.count(name) > 1:
            raise ValueError(
                f"data: classes in {path} must be names, each there once, got {name!r}; "
                "quote what YAML reads as something else (yes, no, 1)"
            )
    return tuple(classes)


def _palette(content: dict[str, Any], path: Path, num_classes: int) -> tuple[tuple[int, int, int], ...]:
    palette = content.get("palette", distinct_palette(num_classes).tolist())
    if not isinstance(palette, list) or len(palette) != num_classes or not all(map(_is_colour, palette)):
        count = f"{len(palette)} entries, " if isinstance(palette, list) else ""
        raise ValueError(
            f"data: palette in {path} must be {num_classes} lists [red, green, blue] of 0..255, one a class, "
            f"got {count}{_shown(palette)}; leave it out for default colours"
        )
    return tuple((red, green, blue) for red, green, blue in palette)


def _ignore_index(content: dict[str, Any], path: Path) -> int:
    ignore_index = content.get("ignore_index", 255)
    if not isinstance(ignore_index, int) or not 0 <= ignore_index <= 255:
        raise ValueError(f"data: ignore_index in {path} must be 0..255, got {ignore_index!r}")
    return ignore_index


def _short_side(content: dict[str, Any], path: Path) -> int | None:
    short_side = content.get("short_side")
    if short_side is not None and (type(short_side) is not int or short_side < 1):
        raise ValueError(f"data: short_side in {path} must be at least 1 pixel, got {short_side!r}")
    return short_side


def _splits(content: dict[str, Any], path: Path, base: Path) -> dict[str, tuple[Path, Path]]:
    named = {split: content[split] for split in SPLITS if content.get(split) is not None}
    if not named:
        raise ValueError(f"data: {path} must name the folders of {' or '.join(SPLITS)}, got none of them")
    for split, folders in named.items():
        if not isinstance(folders, dict) or folders.keys() != {"images", "labels"}:
            raise ValueError(
                f"data: {split} in {path} must be {{images: DIR, labels: DIR}}, got {_shown(folders)}"
            )
    return {
        split: (base / str(folders["images"]), base / str(folders["labels"]))
        for split, folders in named.items()
    }


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_colour(colour: object) -> bool:
    return (
        isinstance(colour, list)
        and len(colour) == 3
        and all(isinstance(value, int) and 0 <= value <= 255 for value in colour)
    )


class SegmentationFolder:
    """Images and label maps of two folders, paired by path without suffix, subfolders included.

    Item i is `(image, label)`: (H, W, 3) uint8 RGB and (H, W) uint8 class ids. Both lie in a
    cache shared by all threads: do not write to them.

    Args:
        images: folder of images.
        labels: folder of label maps.
        num_classes: ids 0..num_classes-1 are valid.
        ignore_index: the one other id that may occur.
        cache_bytes: decoded images are kept in memory until they take this much.

    Raises:
        FileNotFoundError: a folder is missing or empty.
        ValueError: images and labels do not pair up; on reading an item: sizes differ, an id is out of range.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        num_classes: int,
        *,
        ignore_index: int = 255,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        image_files = _files_by_stem(Path(images), IMAGE_SUFFIXES, "images")
        label_files = _files_by_stem(Path(labels), LABEL_SUFFIXES, "labels")
        for have, lack, what, folder in (
            (image_files, label_files, "image", labels),
            (label_files, image_files, "label", images),
        ):
            unpaired = sorted(have.keys() - lack.keys())
            if unpaired:
                names = ", ".join(have[stem].name for stem in unpaired[:3])
                more = ", ..." if len(unpaired) > 3 else ""
                raise ValueError(
                    f"data: every {what} must have its partner in {folder}, "
                    f"got {len(unpaired)} of {len(have)} without ({names}{more}); "
                    "an image and its label have the same name up to the suffix"
                )
        self.pairs = [(image_files[stem], label_files[stem]) for stem in sorted(image_files)]
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._cache_left = cache_bytes
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index in self._cache:
            return self._cache[index]
        item = self._read(*self.pairs[index])
        size = item[0].nbytes + item[1].nbytes
        if size <= self._cache_left:
            self._cache_left -= size
            self._cache[index] = item
        return item

    def class_weights(self, exponent: float) -> torch.Tensor:
        """(num_classes,) float32 (median frequency / frequency)^exponent; classes that never occur get 1."""
        counts = np.zeros(256, np.int64)
        for index in range(len(self)):
            counts += np.bincount(self[index][1].reshape(-1), minlength=256)
        frequency = counts[: self.num_classes].astype(np.float64)
        occurs = frequency > 0
        weights = np.ones_like(frequency)
        weights[occurs] = (np.median(frequency[occurs]) / frequency[occurs]) ** exponent
        return torch.from_numpy(weights).float()

    def _read(self, image_file: Path, label_file: Path) -> tuple[np.ndarray, np.ndarray]:
        image, label = read_image(image_file), read_label(label_file)
        if image.shape[:2] != label.shape:
            raise ValueError(
                f"data: {label_file} must be as large as its image, {image.shape[1]}x{image.shape[0]}, "
                f"got {label.shape[1]}x{label.shape[0]}; labels are never resized silently"
            )
        wrong = (label >= self.num_classes) & (label != self.ignore_index)
        if wrong.any():
            ids = ", ".join(map(str, np.unique(label[wrong])[:8]))
            raise ValueError(
                f"data: ids in {label_file} must be 0..{self.num_classes - 1}, or {self.ignore_index} to be "
                f"ignored, got {ids} in {100 * wrong.mean():.2g} % of its pixels; "
                "name all classes in the data YAML or map the ids; segnext doctor shows what the labels hold"
            )
        return image, label


def _files_by_stem(folder: Path, suffixes: frozenset[str], what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data: {what} must be a folder, got {folder}, which does not exist; correct the data YAML, or "
            "give the data set's folder with --root"
        )
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in files:
            raise ValueError(
                f"data: names in {folder} must differ in more than the suffix, got {files[stem].name} and "
                f"{path.name}; remove one of them"
            )
        files[stem] = path
    if not files:
        raise FileNotFoundError(f"data: {folder} must hold {what} ({' '.join(sorted(suffixes))}), got none")
    return files
