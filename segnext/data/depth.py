"""Reads all bits of images with more than 8 per channel, and scales them to 8 bits.

Pillow keeps only the high byte of 16-bit colour, so a camera's 12 bits in 16 would become 16 levels. It reads 16-bit
gray whole. A file with 16-bit colour is therefore decoded twice here: once for the high bytes, once for the low ones.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from segnext.one_line import one_line

INTEGERS = frozenset(("I;16", "I;16B", "I;16L", "I;16N", "I"))
"""Pillow's modes of one channel with more than 8 bits."""

# The kinds of file in which values below the full range are usual: their fields do not say how many bits are used.
# The others (PPM, JPEG 2000) name their largest value, and Pillow scales it to 65535.
_UNDECLARED = frozenset(("PNG", "TIFF", None))
_BIT_DEPTHS = (8, 10, 12, 14, 16)  # of sensors and converters; a range is measured up to the next of them
_DEEP = re.compile(r";16[BLN]$")  # but BGR;16 is a pixel of 16 bits
_SIZE_MARKER = b"\xff\x4f\xff\x51"  # begins the stream of a JPEG 2000 file
# Bytes from there to the number of bits of the first channel, less 1; its high bit is the sign.
_DEPTH_BEHIND = 42
_NATIVE_ENDIAN = "L" if sys.byteorder == "little" else "B"

ValueRange = tuple[float, float]


class ImageWarning(UserWarning):
    """Pixels were read in a way that the file does not declare; it is shown once per process and way."""


def is_deep_colour(image: Image.Image) -> bool:
    """Return whether an opened, not yet decoded file holds 16-bit colour, or 16-bit gray with alpha."""
    return image.mode in ("RGB", "RGBA") and _DEEP.search(raw_mode(image)) is not None


def deep_colour(
    image: Image.Image, decode: Callable[[Callable[[str], str]], np.ndarray]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode 16-bit colour, or 16-bit gray with alpha.

    Args:
        image: the opened file.
        decode: decodes the file anew, after a function has changed each tile's raw mode, Pillow's name for how its
            bytes are packed; gives (H, W, 3 or 4) uint8.

    Returns:
        (H, W, 3) uint16 values, and the (H, W) uint8 alpha; None without.
    """
    if raw_mode(image) == "LA;16B":
        # Taken as four bands, the four bytes of a pixel are the two of gray and the two of alpha.
        pairs = decode(lambda _: "RGBA")
        gray = pairs[..., 0].astype(np.uint16) << 8 | pairs[..., 1]
        return np.repeat(gray[..., None], 3, axis=2), pairs[..., 2]
    high, low = decode(lambda raw: raw), decode(_of_low_bytes)
    values = high[..., :3].astype(np.uint16) << 8 | low[..., :3]
    return values, high[..., 3] if high.shape[2] == 4 else None


def undeclared_range(image: Image.Image, values: np.ndarray) -> ValueRange:
    """Return the range of integer values for which nobody declared one.

    It is 0 to the largest number of the bits that the file declares (12-bit TIFF, PPM, JPEG 2000). For PNG and TIFF
    files of 16 bits it is that of the bits which the image uses, 8, 10, 12, 14 or 16; below 16 a warning says so.
    """
    if image.format not in _UNDECLARED:
        return 0, 65535
    bits = getattr(image, "tag_v2", {}).get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    if bits >= 16:
        used = int(values.max()).bit_length() if values.size else 16
        bits = next((depth for depth in _BIT_DEPTHS if used <= depth), 16)
        if bits < 16:
            warnings.warn(
                f"16-bit pixels that use {bits} bits are scaled from 0..{2**bits - 1}; the files do not declare "
                "their range, which value_range in the data YAML or the weights does",
                ImageWarning,
                stacklevel=2,
            )
    return 0, 2**bits - 1


def in_decoded_units(image: Image.Image, value_range: ValueRange) -> ValueRange | None:
    """Return a declared range in the numbers that Pillow gives of an opened, not yet decoded file.

    Files that name their largest number are stretched: it becomes 65535, or a number of 16 bits whose lower ones are 0.
    None: the file has colours of more than 8 bits, of which Pillow gives 8.
    """
    largest = declared_largest(image)
    if largest is None or largest <= 255:
        return value_range
    if image.mode not in INTEGERS:
        return None
    unit = 65535 / largest if image.format == "PPM" else 65536 / (largest + 1)
    return value_range[0] * unit, value_range[1] * unit


def declared_largest(image: Image.Image) -> int | None:
    """Return the largest number that a PNM or JPEG 2000 file, not yet decoded, declares; None of any other."""
    if not isinstance(image, ImageFile.ImageFile) or image.fp is None or not image.tile:
        return None
    if image.format == "PPM" and image.mode != "F":
        arguments = image.tile[0].args  # without the largest number if it is the mode's own
        return int(arguments[-1]) if isinstance(arguments, tuple) else 65535 if image.mode == "I" else 255
    if image.format == "JPEG2000":
        place = image.fp.tell()
        image.fp.seek(0)
        content = image.fp.read()
        image.fp.seek(place)
        start = content.find(_SIZE_MARKER)
        return int(2 ** ((content[start + _DEPTH_BEHIND] & 127) + 1) - 1) if start >= 0 else None
    return None


def numbers(image: Image.Image) -> np.ndarray:
    """Return the pixels of a decoded image; Pillow takes unsigned integers of 32 bits in a TIFF for signed ones."""
    values, tags = np.array(image), getattr(image, "tag_v2", {})
    bits, kind = tags.get(TiffImagePlugin.BITSPERSAMPLE), tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    is_unsigned = (bits, kind) == ((32,), (1,))
    return values.view(np.uint32) if is_unsigned and values.dtype == np.int32 else values


def to_bytes(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Scale values from their range to 0..255, rounded; values outside are clipped."""
    low, high = value_range
    result = np.empty(values.shape, np.uint8)
    # Row by row, since float64 takes eight times the memory; float32 is too coarse for a narrow range of large numbers.
    for row, target in zip(values, result, strict=True):
        scaled = row.astype(np.float64)
        scaled -= low
        with np.errstate(over="ignore"):  # what is that far outside is clipped
            scaled /= high - low
            scaled *= 255
        target[:] = np.clip(scaled, 0, 255, out=scaled).round()
    return result


def check_range(what: str, value_range: ValueRange | None) -> None:
    """Raise a ValueError unless it is None, or two finite numbers of which the first is the smaller one."""
    if value_range is None:
        return
    try:
        low, high = map(float, value_range)
        is_valid = low < high and math.isfinite(high - low)
    except (TypeError, ValueError, OverflowError):  # a text, one number, three, an integer of 400 digits
        is_valid = False
    if not is_valid:
        raise ValueError(
            f"{what}: value_range must be two finite numbers, the first below the second, got {one_line(value_range)}"
        )


def set_raw_modes(image: Image.Image, change: Callable[[str], str]) -> None:
    """Change the raw mode of each tile of a file that is not decoded yet."""
    if not isinstance(image, ImageFile.ImageFile):
        return
    tiles = []
    for tile in image.tile:
        # TIFF has more arguments than the raw mode; PNG has it alone.
        if isinstance(tile.args, tuple):
            tiles.append(tile._replace(args=(change(tile.args[0]), *tile.args[1:])))
        else:
            tiles.append(tile._replace(args=change(str(tile.args))))
    image.tile = tiles


def raw_mode(image: Image.Image) -> str:
    """Return the raw mode of the first tile of a file that is not decoded yet; "" of any other image."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    arguments = image.tile[0].args
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _of_low_bytes(raw: str) -> str:
    """Return the raw mode that takes the other byte of each pair: that of the opposite byte order."""
    order = raw[-1] if raw[-1] != "N" else _NATIVE_ENDIAN
    return raw[:-1] + ("B" if order == "L" else "L")
