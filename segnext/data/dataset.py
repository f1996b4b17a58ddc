"""Pairs images with label maps on disk and reads them as arrays; `segnext.data.config` says where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from segnext.data.images import IMAGE_SUFFIXES, read_image
from segnext.data.labels import LABEL_SUFFIXES, Colour, LabelReader

# Decoded images are kept up to this size: CamVid's training split takes 0.25 GB, and decoding
# it again would cost more than all augmentation.
CACHE_BYTES = 1 << 30


class SegmentationFolder:
    """Images and label maps of two folders and their subfolders, paired by name.

    Item i is `(image, label)`: (H, W, 3) uint8 RGB and (H, W) uint8 class ids. Both lie in a
    cache that all threads share: do not write to them.

    Args:
        images: folder of images.
        labels: folder of label maps.
        num_classes: ids 0..num_classes-1 are valid.
        ignore_index: the one other id that may occur.
        label_map: ids in the files to class ids or `ignore_index`; None: they are class ids already.
        colours: colours in the label files to class ids or `ignore_index`; None: they hold ids.
        upright: turn each image and each label by its own EXIF orientation; False: pixels as they are stored.
        image_suffix: end of the images' names, with or without the extension; other files are ignored.
        label_suffix: the same for the label maps' names.
        names: text file with one name per line; other files are ignored. None: all files are used.
        cache_bytes: decoded images are kept in memory until they take this much.

    Attributes:
        pairs: image and label file of each item.
        labels: reads the label files.

    Raises:
        FileNotFoundError: a folder is missing or empty, or the list is missing.
        ValueError: images and labels do not pair up; on reading an item: sizes differ, an id is out of range.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        num_classes: int,
        *,
        ignore_index: int = 255,
        label_map: Mapping[int, int] | None = None,
        colours: Mapping[Colour, int] | None = None,
        upright: bool = True,
        image_suffix: str = "",
        label_suffix: str = "",
        names: str | Path | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.pairs = _pairs(Path(images), Path(labels), image_suffix, label_suffix, names)
        self.labels = LabelReader(
            num_classes, ignore_index, label_map=label_map, colours=colours, upright=upright
        )
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
        """Return (num_classes,) float32 (median frequency / frequency)^exponent.

        Classes that never occur, and an ignored one, get 1.
        """
        counts = np.zeros(256, np.int64)
        for index in range(len(self)):
            counts += np.bincount(self[index][1].reshape(-1), minlength=256)
        frequency = counts[: self.num_classes].astype(np.float64)
        occurs = frequency > 0
        occurs[self.ignore_index : self.ignore_index + 1] = False  # it may be the id of a class
        weights = np.ones_like(frequency)
        weights[occurs] = (np.median(frequency[occurs]) / frequency[occurs]) ** exponent
        return torch.from_numpy(weights).float()

    def _read(self, image_file: Path, label_file: Path) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(image_file, upright=self.labels.upright)
        values = self.labels.read(label_file)
        if image.shape[:2] != values.shape:
            raise ValueError(
                f"data: {label_file} must be as large as its image, {image.shape[1]}x{image.shape[0]}, "
                f"got {values.shape[1]}x{values.shape[0]}; labels are never resized silently"
            )
        return image, self.labels.classes(values, label_file)


def _pairs(
    images: Path, labels: Path, image_suffix: str, label_suffix: str, names: str | Path | None
) -> list[tuple[Path, Path]]:
    """Return image and label files in the order of their common names."""
    image_files = _files_by_name(images, IMAGE_SUFFIXES, image_suffix, "images")
    label_files = _files_by_name(labels, LABEL_SUFFIXES, label_suffix, "labels")
    if names is not None:
        common = _listed(Path(names), image_suffix)
        for files, what, folder in ((image_files, "image", images), (label_files, "label", labels)):
            missing = sorted(set(common) - files.keys())
            if missing:
                raise ValueError(
                    f"data: every name in {names} must have its {what} in {folder}, got {len(missing)} of "
                    f"{len(common)} without ({_some(missing)}); a name is the file's path in that folder without "
                    "extension and suffix"
                )
        return [(image_files[name], label_files[name]) for name in common]
    for have, lack, what, folder in (
        (image_files, label_files, "image", labels),
        (label_files, image_files, "label", images),
    ):
        unpaired = sorted(have.keys() - lack.keys())
        if unpaired:
            raise ValueError(
                f"data: every {what} must have its partner in {folder}, "
                f"got {len(unpaired)} of {len(have)} without ({_some([have[name].name for name in unpaired])}); "
                "an image and its label have the same name up to the suffix; if more differs, say it with "
                "image_suffix and label_suffix in the data YAML, and name the files of a split with list"
            )
    return [(image_files[name], label_files[name]) for name in sorted(image_files)]


def _listed(file: Path, image_suffix: str) -> list[str]:
    """Return the names in a text file, sorted."""
    if not file.is_file():
        raise FileNotFoundError(
            f"data: list must be a text file with one name per line, got {file}, which does not exist; correct "
            "the data YAML, or give the data set's folder with --root"
        )
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    # Some lists name the image file itself, with extension and suffix.
    names = [
        _common_name(PurePosixPath(line), IMAGE_SUFFIXES, image_suffix) or line for line in lines if line
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        found = f"{twice[0]} twice" if twice else "none"
        raise ValueError(f"data: {file} must name each file of the split once, one per line, got {found}")
    return sorted(names)


def _files_by_name(folder: Path, extensions: frozenset[str], suffix: str, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data: {what} must be a folder, got {folder}, which does not exist; correct the data YAML, or "
            "give the data set's folder with --root"
        )
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in extensions or path.name.startswith("."):
            continue
        name = _common_name(PurePosixPath(path.relative_to(folder).as_posix()), extensions, suffix)
        if name is None:
            continue
        if name in files:
            raise ValueError(
                f"data: names in {folder} must differ in more than the suffix, got {files[name].name} and "
                f"{path.name}; remove one of them"
            )
        files[name] = path
    if not files:
        ending = f" whose names end with {suffix}" if suffix else ""
        raise FileNotFoundError(
            f"data: {folder} must hold {what}{ending} ({' '.join(sorted(extensions))}), got none"
        )
    return files


def _common_name(path: PurePosixPath, extensions: frozenset[str], suffix: str) -> str | None:
    """Return the path that an image shares with its label, without extension and suffix; None without that suffix."""
    extension = path.suffix if path.suffix.lower() in extensions else ""
    for name in (path.name.removesuffix(extension), path.name):
        common = name.removesuffix(suffix)
        if name.endswith(suffix) and common:
            return (path.parent / common).as_posix()
    return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
