"""Reads photographs: every file becomes one array or an error of one line.

A photograph may be 8-bit, 16-bit, palette, gray, CMYK, with alpha, rotated by EXIF or animated; it always
comes out as (H, W, 3) uint8 RGB. Anything that cannot be read raises `ImageError`, whose message is one line
that starts with the file's name, so that a batch job can print it and go on. Nothing is guessed in silence: a meaning
that a file does not declare is declared by the caller, warned of, or refused.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin

from segnext.data.corrections import correct
from segnext.data.depth import (
    INTEGERS,
    ImageWarning,
    ValueRange,
    check_range,
    deep_colour,
    in_decoded_units,
    is_deep_colour,
    numbers,
    set_raw_modes,
    to_bytes,
    undeclared_range,
)
from segnext.data.opening import ImageError, expect_readable, opened, opened_bytes
from segnext.data.png import lacks_rows

IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm")
    + (".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp")
)
"""These count as images when a folder is searched; a file that is named itself may have any suffix."""

_STRIP = 1 << 20  # pixels that are converted at once: an image is in memory twice, in Pillow and as an array
# Repeated, it is a row that hardly any image has; a period of 7 bytes fits no pixel of 1, 2, 3 or 4.
_MARK = b"\x9d\x3b\xe1\x57\x2c\xb6\x85"
_MARKED = 4096  # pixels of a row that get the mark
_WITH_ALPHA = frozenset(("RGBA", "RGBa", "LA", "La", "PA"))

# These undo the turn of each EXIF orientation.
_TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def read_image(
    path: str | os.PathLike[str], value_range: ValueRange | None = None, *, upright: bool = True
) -> np.ndarray:
    """Read a photograph as RGB, upright.

    - Alpha is composited on white, as a viewer shows it. In a TIFF it is left out with a warning, because the fourth
      band of many of them is near infrared, whatever it is called there.
    - More than 8 bits per channel are scaled from `value_range`. Without one, it is 0 to the largest number of the
      bits that the file declares. A PNG or TIFF file of 16 bits does not declare them: those that the image uses are
      taken, 8, 10, 12, 14 or 16, with a warning below 16.
    - Of several frames the first is read; the EXIF orientation is applied.

    Args:
        path: an AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PNM, QOI, TGA, TIFF or WebP file; the content tells which,
            not the name.
        value_range: the values that become 0 and 255, for files of more than 8 bits per channel; 8 bits stay as
            they are. Floating-point pixels need it.
        upright: False: the EXIF orientation is ignored.

    Returns:
        (H, W, 3) uint8, RGB, contiguous and writable.

    Raises:
        ImageError: the file is missing, empty, truncated, no image, over Pillow's pixel limit, or of a kind
            without a defined brightness (floating point or more than 16 bits without a range, Lab).
    """
    check_range("read_image", value_range)
    with opened(path) as image:
        return _rgb(image, value_range, upright, in_place=True)


def decode_image(
    content: bytes, value_range: ValueRange | None = None, *, most_pixels: int | None = None
) -> np.ndarray:
    """Read a photograph from the bytes of its file, by the rules of `read_image`.

    Args:
        content: the whole file; a TGA image is not recognised, because only a name tells it.
        value_range: as in `read_image`.
        most_pixels: an image of more is refused before it is decoded; None: Pillow's limit alone.

    Returns:
        (H, W, 3) uint8, RGB, upright, contiguous and writable.

    Raises:
        ImageTooLarge: there are more pixels than `most_pixels`. UnknownFormat: these are not the bytes of an image.
        ImageError: as in `read_image`; messages call the file "image".
    """
    check_range("decode_image", value_range)
    with opened_bytes(content, most_pixels) as image:
        return _rgb(image, value_range, upright=True, in_place=True)


def image_size(content: bytes, *, most_pixels: int | None = None) -> tuple[int, int]:
    """Return height and width that an image's header says, as stored; arguments and errors as in `decode_image`."""
    with opened_bytes(content, most_pixels) as image:
        return image.height, image.width


def rgb_array(
    image: Image.Image, value_range: ValueRange | None = None, *, upright: bool = True
) -> np.ndarray:
    """Turn a Pillow image of any mode into 8-bit RGB, by the rules of `read_image`.

    Args:
        image: an opened image; its current frame is used. All bits of 16-bit colour are read if it is not decoded
            yet; decoding by Pillow keeps 8 of them.
        value_range: as in `read_image`.
        upright: False: the EXIF orientation is ignored.

    Returns:
        (H, W, 3) uint8, RGB, contiguous and writable.

    Raises:
        ImageError: there are no pixels, or they have no defined brightness (floating point or more than 16 bits
            without a range, Lab).
    """
    return _rgb(image, value_range, upright, in_place=False)


def _rgb(image: Image.Image, value_range: ValueRange | None, upright: bool, in_place: bool) -> np.ndarray:
    """See `rgb_array`; an image that nobody else has is turned in place, so that it is in memory once."""
    expect_readable(image)
    correct(image)
    if image.mode == "LAB":
        raise ImageError("Lab colours are not read; save it as RGB")
    if is_deep_colour(image):
        return _deep_rgb(image, value_range, upright)
    if value_range is not None:
        value_range = in_decoded_units(image, value_range)
        if value_range is None:
            raise ImageError(
                "colours of more than 8 bits with a declared value_range are read from PNG and TIFF alone, got "
                f"{image.format}; save it as one of these"
            )
    image = decoded(image, upright, in_place=in_place)
    if image.mode == "La":
        image = image.convert("LA")  # Pillow has no way from here to RGBA
    if image.mode in INTEGERS or image.mode == "F":
        return np.repeat(_deep_gray(image, value_range)[:, :, None], 3, axis=2)
    if image.mode in _WITH_ALPHA and image.format == "TIFF":
        _warn_of_band(image)
        return _colour_bands(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    on_white = image.mode in _WITH_ALPHA or "transparency" in image.info
    step = max(1, _STRIP // image.width)
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(top + step, image.height)))
        if on_white:
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip.convert("RGBA"))
        pixels[top : top + strip.height] = np.asarray(strip.convert("RGB"))
    return pixels


def _deep_gray(image: Image.Image, value_range: ValueRange | None) -> np.ndarray:
    values = numbers(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise ImageError("pixels must be finite numbers, got NaN or infinity; replace them")
        if value_range is None:
            raise ImageError(
                "floating-point pixels have no defined brightness; declare their value_range, or convert it to 8 "
                "or 16 bits"
            )
    elif value_range is None:
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ImageError(
                f"integer pixels must be within 0..65535, got {values.min()}..{values.max()}; declare their "
                "value_range, or save as 16-bit"
            )
        value_range = undeclared_range(image, values)
    gray = to_bytes(values, value_range)
    if "transparency" in image.info:
        gray[values == image.info["transparency"]] = 255
    return gray


def _deep_rgb(image: Image.Image, value_range: ValueRange | None, upright: bool) -> np.ndarray:
    """Read 16-bit colour, or 16-bit gray with alpha, from the file that is opened as `image`."""
    if not isinstance(image, ImageFile.ImageFile) or image.fp is None or image.format is None:
        raise ImageError("the image's file was closed before its pixels were read; open it again")
    file, place, formats = image.fp, image.fp.tell(), [image.format]

    def decode(change: Callable[[str], str]) -> np.ndarray:
        with Image.open(file, formats=formats) as again:
            if image.tell():
                again.seek(image.tell())
            set_raw_modes(again, change)
            return np.array(decoded(again, upright))

    try:
        values, alpha = deep_colour(image, decode)
    finally:
        file.seek(place)  # a PNG that is not decoded goes on from here
    rgb = to_bytes(values, value_range or undeclared_range(image, values))
    if alpha is None:
        if "transparency" in image.info:
            rgb[(values == np.array(image.info["transparency"])).all(2)] = 255
        return rgb
    if image.format == "TIFF":
        _warn_of_band(image)
        return rgb
    return rgb_array(Image.fromarray(np.dstack([rgb, alpha])))


def _warn_of_band(image: Image.Image) -> None:
    warnings.warn(
        f"the last band of {image.format} files is left out: they call it alpha, but it may be near infrared; for "
        "transparency use PNG",
        ImageWarning,
        stacklevel=2,
    )


def _colour_bands(image: Image.Image) -> np.ndarray:
    """Return RGB without alpha, as stored."""
    if image.mode == "PA":
        return np.array(image.convert("RGB"))
    bands = np.array(image)[..., :-1]
    return np.ascontiguousarray(bands) if bands.shape[2] == 3 else np.repeat(bands, 3, axis=2)


def decoded(image: Image.Image, upright: bool, *, in_place: bool = False) -> Image.Image:
    """Return an opened image with its pixels in memory, turned by EXIF (`upright`) or as they are stored.

    The pixels as stored stay in memory too, unless `image` itself may be turned (`in_place`).
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _decoded_tiff(image, upright)
    if isinstance(image, PngImagePlugin.PngImageFile) and image.tile and not image.tell():
        _decode_png(image)
    image.load()
    return turned_upright(image, in_place=in_place) if upright else image


def _decoded_tiff(image: TiffImagePlugin.TiffImageFile, upright: bool) -> Image.Image:
    turn = orientation(image)  # decoding turns the image, and forgets its orientation
    if image.mode == "RGBA":
        # Pillow would divide the colours by a premultiplied alpha, of which nobody knows whether it is one.
        set_raw_modes(image, lambda raw: raw.replace("RGBa", "RGBA"))
    # Pillow maps an uncompressed file into memory, and takes height for width if it is turned by 90 degrees. It does
    # not map a file without a name.
    name, image.filename = image.filename, ""
    image.load()
    image.filename = name
    if not upright and turn != 1:  # in place, for it must still say what its bands and bits are
        stored = image.transpose(_TURN_BACK[turn])
        image.im, image._size = stored.im, stored.size
    return image


def _decode_png(image: PngImagePlugin.PngImageFile) -> None:
    """Decode the first frame, and refuse a file whose last rows are missing.

    Pillow leaves the memory of such rows as it is. So a mark in the last row is gone if decoding went that far. Only
    if it is there, by chance too, the stream is inflated once more and counted. The row that an interlaced file stores
    last may be any: it is always counted.
    """
    assert image.fp is not None
    mark, file = _mark(image), None
    if not image.filename:  # Pillow closes a stream of its own after decoding
        place = image.fp.tell()
        image.fp.seek(0)
        file = io.BytesIO(image.fp.read())
        image.fp.seek(place)
    memory = Image.new(image.mode, image.size)
    memory.paste(mark, (0, image.height - 1))
    image.im = memory.im
    image.load()
    last = image.crop((0, image.height - 1, mark.width, image.height))
    if last.tobytes() != mark.tobytes() and not image.info.get("interlace"):
        return
    with file or open(image.filename, "rb") as content:
        is_damaged = lacks_rows(content)
    if is_damaged:
        raise ImageError("cannot be decoded, it is damaged or truncated (rows are missing)")


def _mark(image: Image.Image) -> Image.Image:
    """Return the pixels that begin a row which is not decoded; a row is decoded whole."""
    row = Image.new(image.mode, (min(image.width, _MARKED), 1))
    size = len(row.tobytes())
    return Image.frombytes(image.mode, row.size, (_MARK * size)[:size])


def orientation(image: Image.Image) -> int:
    """Return an image's EXIF orientation, 1 (upright) to 8; 5 and above swap height and width.

    The orientation of a TIFF is known until it is decoded. Any other image is decoded for it, which may fail: the
    orientation of a PNG may lie behind its pixels.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load()
    try:
        number = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block can raise any error, while the pixels are decoded and good
        return 1
    return number if number in range(1, 9) else 1


def turned_upright(image: Image.Image, *, in_place: bool = False) -> Image.Image:
    """Return the image turned by its EXIF orientation; the image itself if it has none, or may be turned."""
    if orientation(image) == 1:
        return image
    if in_place:
        ImageOps.exif_transpose(image, in_place=True)
        return image
    upright = ImageOps.exif_transpose(image)
    upright.format = image.format
    return upright
