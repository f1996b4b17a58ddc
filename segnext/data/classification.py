"""Images of a classification in class folders, as ImageNet has them: `train/n01440764/*.JPEG`, `val/n01440764/*.JPEG`.

The folders' names in alphabetical order are the ids. A file classes.txt beside `train` and `val` may name the classes
in words, one line per folder: `n01440764 tench, Tinca tinca`.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segnext.data.images import IMAGE_SUFFIXES, read_image

SPLITS = ("train", "val")
NAMES = "classes.txt"
CROP_SHARE = 0.9
"""Share of the short side that the evaluation's crop takes."""


class ClassifiedImages:
    """The images of one split.

    Item i is `(image, class id)`: (H, W, 3) uint8 RGB. As in the published protocols, EXIF orientation is ignored.

    Args:
        root: folder of the class folders.
        folders: their names; a name's place here is the class id. Folders that do not exist have no images.

    Attributes:
        labels: (N,) int64 class id of each image.

    Raises:
        FileNotFoundError: there are no images.
    """

    def __init__(self, root: Path, folders: tuple[str, ...]) -> None:
        self.root = root
        self._folders = folders
        self._names: list[str] = []
        labels: list[int] = []
        for class_id, folder in enumerate(folders):
            found = _image_names(root / folder) if (root / folder).is_dir() else []
            self._names += found
            labels += [class_id] * len(found)
        self.labels = np.array(labels, np.int64)
        if not self._names:
            raise FileNotFoundError(
                f"data: {root} must hold images in its class folders, got none; names must end in .jpg, .png ..."
            )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return read_image(self.file(index), upright=False), int(self.labels[index])

    def share(self, rank: int, ranks: int) -> ClassifiedImages:
        """Return every `ranks`-th image, from number `rank`, as an equal data set."""
        other = copy.copy(self)
        other._names, other.labels = self._names[rank::ranks], self.labels[rank::ranks]
        return other

    def file(self, index: int) -> Path:
        """Return the file of an image."""
        return self.root / self._folders[self.labels[index]] / self._names[index]


@dataclass(frozen=True)
class ClassFolders:
    """A data set of class folders; `open_class_folders` finds them.

    Attributes:
        name: short name of the data set.
        folders: names of the class folders; a class's id is the index here.
        classes: names of the classes in words; the folders' names without a classes.txt.
        splits: folder of each split, "train" or "val".
    """

    name: str
    folders: tuple[str, ...]
    classes: tuple[str, ...]
    splits: dict[str, Path]

    def reading_of_labels(self) -> dict[str, Any]:
        """Return what decides which class each image has, in the form in which JSON gives it back."""
        return {"folders": list(self.folders)}

    def open(self, split: str) -> ClassifiedImages:
        """Open one split.

        Raises:
            ValueError: there is no such split. FileNotFoundError: it has no images.
        """
        if split not in self.splits:
            raise ValueError(
                f"data: split must be one of {', '.join(self.splits)} for {self.name}, got {split}; "
                f"it needs a folder of this name beside {next(iter(self.splits.values()))}"
            )
        return ClassifiedImages(self.splits[split], self.folders)


def open_class_folders(root: str | Path | None, name: str = "imagenet") -> ClassFolders:
    """Find the class folders of a data set.

    Args:
        root: folder that holds `train`, `val` or both; None: nobody named one.
        name: short name of the data set.

    Raises:
        FileNotFoundError: root or its splits are missing.
        ValueError: images lie in no class folder, or there are fewer than two classes; `val` has a class that `train`
            lacks; classes.txt does not fit.
    """
    if root is None:
        raise ValueError(
            f"data: {name} must have a folder with train and val, got none; name it with --root DIR"
        )
    base = Path(root).expanduser()
    splits = {split: base / split for split in SPLITS if (base / split).is_dir()}
    if not splits:
        raise FileNotFoundError(
            f"data: {name} must lie in {base}/train/CLASS/*.JPEG and {base}/val/CLASS/*.JPEG, got no such folder; "
            "name the folder above train and val with --root"
        )
    of_split = {split: _class_names(folder) for split, folder in splits.items()}
    folders = next(iter(of_split.values()))  # those of train, if there is one
    unknown = sorted(set(of_split.get("val", ())) - set(folders))
    if unknown:
        raise ValueError(
            f"data: classes of {splits['val']} must be among those of {splits['train']}, got {unknown[0]}; "
            "add its training images, or remove the folder"
        )
    return ClassFolders(name, folders, _read_names(base / NAMES, folders), splits)


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Resize the short side of an image to `side / 0.9` pixels (bicubic, antialiased), and cut out its centre.

    Args:
        image: (H, W, 3) uint8.
        side: of the result.

    Returns:
        (side, side, 3) uint8, as timm's evaluation transform gives it for a crop of 90 %.
    """
    height, width = image.shape[:2]
    target, short = int(side / CROP_SHARE), min(height, width)
    size = (int(target * width / short), int(target * height / short))
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def _class_names(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    names = sorted(name for name, is_folder in found if is_folder)
    if len(names) < 2:
        loose = sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name, is_folder in found if not is_folder)
        raise ValueError(
            f"data: {folder} must hold two folders or more, one per class, got {len(names)}"
            + (f" beside {loose} images; move each image into the folder of its class" if loose else "")
        )
    return tuple(names)


def _image_names(folder: Path) -> list[str]:
    return sorted(
        name
        for name in os.listdir(folder)
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
    )


def _read_names(file: Path, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes' names in words, in the order of the folders."""
    if not file.is_file():
        return folders
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    named = {folder: words.strip() or folder for folder, _, words in (line.partition(" ") for line in lines)}
    lacking = [folder for folder in folders if folder not in named]
    if lacking:
        raise ValueError(
            f"data: {file} must have a line for each of the {len(folders)} class folders, got none for {lacking[0]}; "
            f'write "{lacking[0]} NAME"'
        )
    return tuple(named[folder] for folder in folders)
