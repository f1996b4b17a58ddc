"""Opens the files of photographs, not yet decoded; whatever fails about one becomes an `ImageError` of one line."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from segnext.data.corrections import correct
from segnext.data.depth import ImageWarning
from segnext.data.unread import unidentified

# The formats of photographs. No other is opened, whatever a file's name is: for some of them Pillow starts another
# program (EPS: Ghostscript), and most are decoded by code that few people test.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")
# A Targa file has no mark of its own, so that many damaged files look like one: only its name tells.
_BY_SUFFIX = {".tga": "TGA"}


class ImageError(ValueError):
    """An image file that cannot be used; the message is one line that names the file."""


class ImageTooLarge(ImageError):
    """An image of more pixels than are read."""


class UnknownFormat(ImageError):
    """A file that is no image, or one of a format that is not read."""


def _open(file: Path | io.BytesIO) -> Image.Image:
    Image.init()  # registers all formats
    suffix = file.suffix.lower() if isinstance(file, Path) else ""
    formats = [*_FORMATS, *([_BY_SUFFIX[suffix]] if suffix in _BY_SUFFIX else [])]
    return Image.open(file, formats=[name for name in formats if name in Image.OPEN])


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open a file, not yet decoded; a failure in the block becomes an `ImageError` that names the file."""
    file = Path(path)
    with _image_errors(str(file), lambda: file.open("rb")):
        if file.is_dir():
            raise ImageError("is a folder, not an image file")
        if not file.exists():
            raise ImageError("no such file")
        if not file.is_file():
            raise ImageError("is not a regular file")  # a pipe would block for ever
        if file.stat().st_size == 0:
            raise ImageError("the file is empty (0 bytes)")
        with _open(file) as image:
            expect_readable(image)
            correct(image)
            yield image


@contextmanager
def opened_bytes(content: bytes, most_pixels: int | None) -> Iterator[Image.Image]:
    """Open the bytes of a file, not yet decoded; failures as in `opened`, of a file that is called "image"."""
    with _image_errors("image", lambda: io.BytesIO(content), most_pixels):
        if not content:
            raise ImageError("the file is empty (0 bytes)")
        with _open(io.BytesIO(content)) as image:
            if most_pixels is not None and image.width * image.height > most_pixels:
                raise ImageTooLarge(
                    f"must have at most {most_pixels:,} pixels, got {image.width} x {image.height}; scale it down or "
                    "cut it into tiles"
                )
            expect_readable(image)
            correct(image)
            yield image


@contextmanager
def _image_errors(
    name: str, open_again: Callable[[], BinaryIO], most_pixels: int | None = None
) -> Iterator[None]:
    """Make an `ImageError` that begins with a name of whatever a block raises about a file."""
    try:
        yield
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from None
    except UnidentifiedImageError:
        with open_again() as stream:
            reason = unidentified(stream, _FORMATS)
        raise UnknownFormat(f"{name}: {reason}") from None
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{name}: {_too_large(error, most_pixels)}") from None
    except MemoryError:
        raise ImageError(f"{name}: not enough memory to decode it; cut it into tiles") from None
    except PermissionError:
        raise ImageError(f"{name}: cannot be read, permission denied") from None
    except ImageWarning:  # only where warnings are errors
        raise
    except Exception as error:  # a parser can raise any error on damaged data: struct.error, KeyError ...
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
            raise ImageError(f"{name}: cannot be read, {os.strerror(error.errno).lower()}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: cannot be decoded, it is damaged or truncated ({reason})") from None


def _too_large(error: Exception, most_pixels: int | None) -> str:
    numbers = [int(n) for n in re.findall(r"\d+", str(error))]
    pixels, limit = numbers[:2] if len(numbers) >= 2 else (0, 2 * (Image.MAX_IMAGE_PIXELS or 0))
    if most_pixels is not None:
        return f"must have at most {most_pixels:,} pixels, got {pixels:,}; scale it down or cut it into tiles"
    return (
        f"has {pixels:,} pixels, over Pillow's safety limit of {limit:,}; scale it down or cut it into "
        "tiles, or, if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS (segnext predict --max-pixels)"
    )


def expect_readable(image: Image.Image) -> None:
    """Refuse an image without pixels, and what Pillow reads otherwise than it is meant if `correct` cannot help."""
    if 0 in image.size:
        raise ImageError(f"the image has no pixels, its size is {image.width}x{image.height}")
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags = image.tag_v2
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and len(bits) > 1 and max(bits) > 8:
        # Pillow takes the bytes of one band for those of a pixel.
        raise ImageError("16-bit colour in separate planes is not read; save it with interleaved bands")
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 and max(bits) > 8:
        # Pillow turns gray of 8 bits only into the usual order.
        raise ImageError("gray of more than 8 bits in which 0 is white is not read; save it with 0 as black")
    if max(bits) == 8 and 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)):
        # Pillow takes -1 for 255.
        raise ImageError("signed numbers of 8 bits are not read; save them with 16 bits, or as unsigned")
