"""Reads label maps: which value each pixel of a file holds, and which class that value is.

A value is an id, or a colour as the number 0xRRGGBB. Everything that a reader could guess wrongly is refused in one
line that names the file: losses, transparency, colours where ids are expected, fractions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageFile

from segnext.data.depth import INTEGERS, declared_largest, is_deep_colour, numbers, raw_mode
from segnext.data.images import ImageError, decoded, opened

LABEL_SUFFIXES = frozenset({".bmp", ".gif", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff"})
"""These count as label maps when a folder is searched: the lossless formats."""

IDS = 1 << 16
"""A label map may hold ids 0..65535, which a 16-bit file has room for."""

COLOURS = 1 << 24

VOID = 255
"""Annotators give this id to what has no class, whatever their other ids are."""

_LOSSLESS = frozenset({"BMP", "GIF", "PNG", "PPM", "TIFF"})  # as Pillow calls the formats
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})
_ID_MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_COLOUR_MODES = frozenset({"1", "L", "P", "RGB"})
_STRETCHED = {"2": 85, "4": 17}  # gray of 2 and 4 bits: Pillow makes 255 of the largest number
_WITHOUT_ALPHA = {"LA": "L", "RGBA": "RGB"}

Colour = tuple[int, int, int]


def read_label(path: str | os.PathLike[str], *, upright: bool = True) -> np.ndarray:
    """Read a label map of ids; colours of a palette are ignored.

    Args:
        path: a lossless image of one channel (gray, palette, bilevel, 16-bit) or of three equal ones; alpha must be
            opaque. Ids are the numbers that the file stores, whatever they look like: gray of 2 bits holds 0 to 3, also
            where 0 is white. Only of a bilevel file black is 0, and white is 1.
        upright: turn it by its EXIF orientation, as `read_image` does; False: pixels as they are stored.

    Returns:
        (H, W) uint8, or uint16 if an id is above 255; contiguous and writable.

    Raises:
        ImageError: as `read_image`; also for lossy formats (losses change ids), for colours and for ids above 65535.
    """
    with opened(path) as image:
        return _ids(_pixels(image, upright, as_stored=True))


def read_colours(path: str | os.PathLike[str], *, upright: bool = True) -> np.ndarray:
    """Read a label map of colours, as RGB, palette or gray; alpha must be opaque.

    Args:
        path: a lossless image.
        upright: as in `read_label`.

    Returns:
        (H, W) int32, the number 0xRRGGBB of each pixel; contiguous and writable.

    Raises:
        ImageError: as `read_image`; also for lossy formats and for more than 8 bits per channel.
    """
    with opened(path) as image:
        return _colours(_pixels(image, upright, as_stored=False))


class LabelReader:
    """Reads the label maps of one data set.

    Args:
        num_classes: ids 0..num_classes-1 are classes.
        ignore_index: the one other id that `classes` may give.
        label_map: every id in the files, 255 where it is ignored excepted, to a class id or `ignore_index`; None:
            they are class ids already.
        colours: colours in the files to class ids or `ignore_index`, instead of ids; None: the files hold ids.
        upright: turn each file by its EXIF orientation.

    Attributes:
        table: (65536,) int16, or (2^24,) for colours: the class id of each value; -1 if it has none.

    Raises:
        ValueError: class ids, or the ignored one, do not fit into 8 bits.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        *,
        label_map: Mapping[int, int] | None = None,
        colours: Mapping[Colour, int] | None = None,
        upright: bool = True,
    ) -> None:
        if not (1 <= num_classes <= 256 and 0 <= ignore_index <= 255):
            raise ValueError(
                "labels: num_classes must be 1..256 and ignore_index 0..255, for class ids have 8 bits, got "
                f"{num_classes} and {ignore_index}"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.is_mapped = label_map is not None
        self.has_colours = colours is not None
        self.upright = upright
        self.table = np.full(IDS if colours is None else COLOURS, -1, np.int16)
        if colours is not None:
            for (red, green, blue), target in colours.items():
                self.table[red << 16 | green << 8 | blue] = target
            return
        if label_map is None:
            self.table[:num_classes] = np.arange(num_classes)
        else:
            self.table[list(label_map)] = list(label_map.values())
        if self.table[ignore_index] < 0 and (label_map is None or ignore_index == VOID):
            self.table[ignore_index] = ignore_index

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Return a file's values as `read_label` or `read_colours` gives them; raises `ImageError`."""
        with opened(path) as image:
            return self.values(image)

    def values(self, image: Image.Image) -> np.ndarray:
        """Return the values of an opened image, see `read`; an error does not name the file."""
        pixels = _pixels(image, self.upright, as_stored=not self.has_colours)
        return (_colours if self.has_colours else _ids)(pixels)

    def classes(self, values: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
        """Return the class id of each value, (H, W) uint8; `path` is the file that an error names.

        Raises:
            ValueError: a value has no class; the message says which.
        """
        mapped = self.table[values]
        wrong = mapped < 0
        if wrong.any():
            found = ", ".join(map(self.shown, np.unique(values[wrong])[:8].tolist()))
            raise ValueError(
                f"data: {self.kind} in {path} must {self.expected}, got {found} in {percent(wrong.mean())} of "
                f"its pixels; {self._remedy}; segnext doctor shows what the labels hold"
            )
        return mapped.astype(np.uint8)

    @property
    def kind(self) -> str:
        """What the values are: "ids" or "colours"."""
        return "colours" if self.has_colours else "ids"

    @property
    def expected(self) -> str:
        """What each value must be, to follow "must"."""
        if self.has_colours:
            return "be in the data YAML's palette or ignore_colors"
        if self.is_mapped:
            return "be in the data YAML's label_map"
        return f"be 0..{self.num_classes - 1}, or {self.ignore_index} to be ignored"

    @property
    def _remedy(self) -> str:
        if self.has_colours:
            return "add them to one of these"
        if self.is_mapped:
            return "map them to a class or to ignore"
        return "name all classes in the data YAML or map the ids with its label_map"

    def shown(self, value: int) -> str:
        """Return a value in the form in which the data YAML has it: an id, or ``[red, green, blue]``."""
        return str([value >> 16, value >> 8 & 255, value & 255]) if self.has_colours else str(value)


def percent(share: float) -> str:
    """Return a share of pixels as text: two digits, "0.012 %" or "100 %"."""
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def _pixels(image: Image.Image, upright: bool, as_stored: bool) -> Image.Image:
    """Return a label's image without its opaque alpha, upright if wanted; refuse what loses or hides ids.

    Args:
        image: opened, not yet decoded.
        upright: turn it by its EXIF orientation.
        as_stored: give the numbers in the file, which Pillow else stretches to 0..255 (or 65535).
    """
    if image.format not in _LOSSLESS or image.info.get("compression") in _LOSSY_TIFF:
        raise ImageError(
            f"a label map must be lossless, got {image.format}, which may change ids; store it as PNG"
        )
    if is_deep_colour(image) or _is_deep_pnm(image):
        raise ImageError(
            "a label map of several channels must have 8 bits per channel, got 16; save it as gray PNG of 8 or 16 bits"
        )
    stored = _stored_numbers(image) if as_stored else None
    image = decoded(image, upright)
    # Of ids in a palette, which every GIF has, the colours do not count, and so not how opaque they are.
    has_palette = image.mode == "P" or image.format == "GIF"
    if not (as_stored and has_palette) and _is_transparent(image):
        raise ImageError(
            f"a label map must be opaque, got transparent pixels (mode {image.mode}); which class they are "
            "is not said: give them an id and save without alpha"
        )
    image.info.pop("transparency", None)  # Pillow warns of it when it converts a palette
    if stored is not None:
        image = image.point(stored)
    return image.convert(_WITHOUT_ALPHA[image.mode]) if image.mode in _WITHOUT_ALPHA else image


def _is_deep_pnm(image: Image.Image) -> bool:
    """Return whether a PNM file has colours of more than 8 bits, of which Pillow gives 8."""
    return image.format == "PPM" and image.mode != "I" and (declared_largest(image) or 0) > 255


def _is_transparent(image: Image.Image) -> bool:
    """Return whether any pixel is not opaque, by its alpha or by a value that the file calls transparent."""
    gone = image.info.get("transparency")
    if gone is not None and image.mode in INTEGERS:
        return bool((np.array(image) == gone).any())
    if gone is not None:
        image = image.convert("RGBA")
    return image.mode in _WITHOUT_ALPHA and image.getchannel("A").getextrema() != (255, 255)


def _stored_numbers(image: Image.Image) -> list[int] | None:
    """Return the number that a file stores for each of the 256 that decoding gives, if they differ.

    A PNM file is kept from being stretched: its numbers do not.
    """
    if image.format == "PPM" and image.mode != "F" and isinstance(image, ImageFile.ImageFile):
        # The last argument is the largest number that the file declares, which becomes the mode's largest.
        largest = 65535 if image.mode == "I" else 255
        image.tile = [
            tile._replace(args=(tile.args[0], largest)) if isinstance(tile.args, tuple) else tile
            for tile in image.tile
        ]
    found = re.fullmatch(r"L(?:;([24]?)(I?)R?)?", raw_mode(image))
    if found is None or not (found[1] or found[2]):
        return None
    factor = _STRETCHED.get(found[1], 1)
    return [(255 - value if found[2] else value) // factor for value in range(256)]


def _ids(image: Image.Image) -> np.ndarray:
    if image.mode == "RGB":
        return _equal_channels(image)
    if image.mode not in _ID_MODES:
        raise ImageError(
            f"a label map must have one channel of class ids, got mode {image.mode}; save it as 8-bit gray PNG"
        )
    ids = numbers(image)
    if ids.size and (ids.min() < 0 or ids.max() >= IDS):
        raise ImageError(f"ids of a label map must be within 0..{IDS - 1}, got {ids.min()}..{ids.max()}")
    return ids.astype(np.uint8 if not ids.size or ids.max() < 256 else np.uint16, copy=False)


def _equal_channels(image: Image.Image) -> np.ndarray:
    channels = np.array(image)
    ids = channels[:, :, 0]
    if (channels != ids[:, :, None]).any():
        raise ImageError(
            "a label map must have one channel of class ids, got colours; if they are the palette's, say "
            "color_labels: true in the data YAML, with the palette"
        )
    return np.ascontiguousarray(ids)


def _colours(image: Image.Image) -> np.ndarray:
    if image.mode not in _COLOUR_MODES:
        raise ImageError(
            f"a label map of colours must be 8-bit RGB or have a palette, got mode {image.mode}; if it holds ids, "
            "leave color_labels out of the data YAML"
        )
    red, green, blue = np.array(image.convert("RGB")).astype(np.int32).transpose(2, 0, 1)
    return (red << 16) | (green << 8) | blue
