"""Reads pairs of images and label maps as arrays; `segnext.data.config` says where they are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from segnext.data.bands import Bands, read_bands, rgb_view
from segnext.data.depth import ValueRange
from segnext.data.fingerprints import fingerprint_of
from segnext.data.headers import Header, read_header
from segnext.data.labels import Colour, LabelReader
from segnext.data.pairing import find_pairs
from segnext.data.preprocessing import Preprocessing

# Decoded images are kept up to this size: CamVid's training split takes 0.25 GB, and decoding
# it again would cost more than all augmentation.
CACHE_BYTES = 1 << 30


class SegmentationFolder:
    """Images and label maps of two folders and their subfolders, paired by name.

    Item i is `(image, label)`: (H, W, 3) uint8 RGB, or (H, W, C) with `bands`, and (H, W) uint8 class ids. Both lie
    in a cache that all threads share: do not write to them.

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
        value_range: the values that become 0 and 255 in images of more than 8 bits, see `read_image`.
        bands: which bands of the image files are read, see `read_bands`; None: RGB.
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
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.pairs = find_pairs(Path(images), Path(labels), image_suffix, label_suffix, names)
        self.labels = LabelReader(
            num_classes, ignore_index, label_map=label_map, colours=colours, upright=upright
        )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.value_range = value_range
        self.bands = bands
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

    def read_as(self, preprocessing: Preprocessing) -> SegmentationFolder:
        """Return this data set with the range and the bands that the weights expect, where it has none of its own."""
        value_range, bands = self.value_range or preprocessing.value_range, self.bands or preprocessing.bands
        if (value_range, bands) == (self.value_range, self.bands):
            return self
        other = copy.copy(self)
        other.value_range, other.bands, other._cache = value_range, bands, {}
        return other

    def share(self, rank: int, ranks: int) -> SegmentationFolder:
        """Return every `ranks`-th pair from number `rank` on, as a data set with a cache of its own."""
        if ranks == 1:
            return self
        other = copy.copy(self)
        other.pairs, other._cache = self.pairs[rank::ranks], {}
        return other

    def read_image(self, file: Path) -> np.ndarray:
        """Return an image as the data set gives it, (H, W, 3) uint8 RGB or (H, W, C) bands; raises `ImageError`."""
        return read_bands(file, self.bands, self.value_range, upright=self.labels.upright)

    def header(self, file: Path, *, with_fingerprint: bool = False) -> Header:
        """Return the header of an image that is whole, see `read_header`; raises `ImageError`."""
        if self.bands is None:
            return read_header(file, self.read_image, with_fingerprint=with_fingerprint)
        image = self.read_image(file)
        height, width, count = image.shape
        found = fingerprint_of(Image.fromarray(rgb_view(image))) if with_fingerprint else None
        return Header(height, width, 1, f"{count} bands", found)

    def _read(self, image_file: Path, label_file: Path) -> tuple[np.ndarray, np.ndarray]:
        image = self.read_image(image_file)
        values = self.labels.read(label_file)
        if image.shape[:2] != values.shape:
            raise ValueError(
                f"data: {label_file} must be as large as its image, {image.shape[1]}x{image.shape[0]}, "
                f"got {values.shape[1]}x{values.shape[0]}; labels are never resized silently"
            )
        return image, self.labels.classes(values, label_file)
