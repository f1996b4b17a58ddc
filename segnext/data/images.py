"""Reads photographs: every file becomes one array or an error of one line.

A photograph may be 8-bit, 16-bit, palette, gray, CMYK, with alpha, rotated by EXIF or animated; it always
comes out as (H, W, 3) uint8 RGB. Anything that cannot be read raises `ImageError`, whose message is one line
that starts with the file's name, so that a batch job can print it and go on.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm")
    + (".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp")
)
"""These count as images when a folder is searched; a file that is named itself may have any suffix."""

_SIXTEEN_BIT = frozenset(("I;16", "I;16B", "I;16L", "I;16N", "I"))
_WITH_ALPHA = frozenset(("RGBA", "RGBa", "LA", "La", "PA"))


class ImageError(ValueError):
    """An image file that cannot be used; the message is one line that names the file."""


def read_image(path: str | os.PathLike[str], *, upright: bool = True) -> np.ndarray:
    """Read a photograph as RGB, upright.

    Alpha is composited on white, as a viewer shows it; 16-bit gray is scaled from the full range 0..65535; only
    the first of several frames is read; the EXIF orientation is applied.

    Args:
        path: a file in any format that Pillow reads.
        upright: False: the EXIF orientation is ignored.

    Returns:
        (H, W, 3) uint8, RGB, contiguous and writable.

    Raises:
        ImageError: the file is missing, empty, truncated, no image, over Pillow's pixel limit, or of a kind
            without a defined brightness (floating point, 32 bits).
    """
    with opened(path) as image:
        return rgb_array(image, upright=upright)


def rgb_array(image: Image.Image, *, upright: bool = True) -> np.ndarray:
    """Turn a Pillow image of any mode into 8-bit RGB, by the rules of `read_image`.

    Args:
        image: an opened image; its current frame is used.
        upright: False: the EXIF orientation is ignored.

    Returns:
        (H, W, 3) uint8, RGB, contiguous and writable.

    Raises:
        ImageError: the mode has no defined brightness (floating point, 32 bits).
    """
    image = turned_upright(image) if upright else image
    if image.mode in _SIXTEEN_BIT:
        values = np.array(image)
        if image.mode == "I" and values.size and (values.min() < 0 or values.max() > 65535):
            raise ImageError(
                f"32-bit pixels must be within 0..65535, got {values.min()}..{values.max()}; save as 16-bit"
            )
        # 65535 / 257 = 255; adding half of 257 makes it round to the nearest.
        gray = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no defined brightness; convert it to 8 or 16 bits")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return np.array(image.convert("RGB"))


def orientation(image: Image.Image) -> int:
    """Return an image's EXIF orientation, 1 (upright) to 8; 5 and above swap height and width."""
    try:
        number = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in `turned_upright`
        return 1
    return number if number in range(1, 9) else 1


def turned_upright(image: Image.Image) -> Image.Image:
    """Return the image turned by its EXIF orientation; the image itself if it has none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block can raise any error, while the pixels are decoded and good
        return image


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open and decode the first frame; a failure in the block becomes an `ImageError` that names the file."""
    file = Path(path)
    try:
        if file.is_dir():
            raise ImageError("is a folder, not an image file")
        if not file.exists():
            raise ImageError("no such file")
        if not file.is_file():
            raise ImageError("is not a regular file")  # a pipe would block for ever
        if file.stat().st_size == 0:
            raise ImageError("the file is empty (0 bytes)")
        with Image.open(file) as image:
            image.load()  # decoding here makes sure that a later failure is not about the pixels
            if 0 in image.size:
                raise ImageError(f"the image has no pixels, its size is {image.width}x{image.height}")
            yield image
    except ImageError as error:
        raise ImageError(f"{file}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{file}: not an image in a format that Pillow {Image.__version__} reads") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{file}: {_too_large(error)}") from None
    except MemoryError:
        raise ImageError(f"{file}: not enough memory to decode it; cut it into tiles") from None
    except PermissionError:
        raise ImageError(f"{file}: cannot be read, permission denied") from None
    except Exception as error:  # a parser can raise any error on damaged data: struct.error, KeyError ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{file}: cannot be decoded, it is damaged or truncated ({reason})") from None


def _too_large(error: Exception) -> str:
    numbers = [int(n) for n in re.findall(r"\d+", str(error))]
    pixels, limit = numbers[:2] if len(numbers) >= 2 else (0, 2 * (Image.MAX_IMAGE_PIXELS or 0))
    return (
        f"has {pixels:,} pixels, over Pillow's safety limit of {limit:,}; scale it down or cut it into "
        "tiles, or, if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS (segnext predict --max-pixels)"
    )
