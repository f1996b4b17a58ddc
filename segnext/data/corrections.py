"""Sets right what Pillow takes from a file's header otherwise than it is meant.

A correction is made before an image is decoded, and a second one changes nothing. What cannot be set right is refused
in `segnext.data.images`.
"""

from __future__ import annotations

import struct

from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin

from segnext.data.depth import raw_mode, set_raw_modes

# Where a BMP's header says how long it is, and how many bits a pixel has. That of OS/2 is shorter.
_BMP_HEADER_SIZE, _BMP_BITS, _OS2_BMP_BITS = 14, 28, 24
_OS2_HEADER_SIZE = 12
_TGA_DESCRIPTOR = 17
_TGA_ATTRIBUTE_BITS = 15  # those of the descriptor that count a pixel's bits of alpha
_WITHOUT_ATTRIBUTES = {"BGRA": "BGRX", "BGRA;15Z": "BGR;15"}
_GRAY_BITS = {"1": 1, "L;2": 2, "L;4": 4}


def correct(image: Image.Image) -> None:
    """Correct an opened image that is not decoded yet; any other is left as it is."""
    if not isinstance(image, ImageFile.ImageFile) or image.fp is None or not image.tile:
        return
    if image.format == "BMP":
        _restore_gray_palette(image)
    elif image.format == "PNG":
        _stretch_transparent_value(image)
    elif image.format == "TGA":
        _drop_undeclared_alpha(image)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _take_palette_of_8_bits(image)


def _restore_gray_palette(image: ImageFile.ImageFile) -> None:
    """Pillow drops the palette of a BMP if it is gray, and takes each pixel to have as many bits as its mode then."""
    if image.mode not in ("1", "L"):
        return
    is_os2 = _number(image, "<I", _BMP_HEADER_SIZE) == _OS2_HEADER_SIZE
    bits = _number(image, "<H", _OS2_BMP_BITS if is_os2 else _BMP_BITS)
    if (image.mode, bits) in (("1", 1), ("L", 8)):
        return
    grays = (0, 255) if image.mode == "1" else range(256)
    set_raw_modes(image, lambda _: "P" if bits == 8 else f"P;{bits}")
    image._mode = "P"
    image.palette = ImagePalette.raw("RGB", bytes(gray for gray in grays for _ in "RGB"))


def _stretch_transparent_value(image: ImageFile.ImageFile) -> None:
    """Pillow stretches gray of less than 8 bits to 0..255, and not the value that is transparent."""
    raw, value = raw_mode(image), image.info.get("transparency")
    if isinstance(value, int) and raw in _GRAY_BITS:
        largest = (1 << _GRAY_BITS[raw]) - 1
        # The format's rule: only the low bits count. A value that is stretched already stays so.
        image.info["transparency"] = (value & largest) * (255 // largest)


def _drop_undeclared_alpha(image: ImageFile.ImageFile) -> None:
    """Pillow takes the fourth byte of a TGA's pixel for alpha, also if the header says that there is none."""
    if image.mode == "RGBA" and not _number(image, "B", _TGA_DESCRIPTOR) & _TGA_ATTRIBUTE_BITS:
        set_raw_modes(image, lambda raw: _WITHOUT_ATTRIBUTES[raw])
        image._mode = "RGB"


def _take_palette_of_8_bits(image: TiffImagePlugin.TiffImageFile) -> None:
    """Pillow takes the numbers of a palette for 16 bits; as in libtiff, none above 255 means that they have 8."""
    palette = image.tag_v2.get(TiffImagePlugin.COLORMAP, ())
    if image.mode in ("P", "PA") and max(palette, default=256) <= 255:
        image.palette = ImagePalette.raw("RGB;L", bytes(palette))


def _number(image: ImageFile.ImageFile, kind: str, place: int) -> int:
    """Return a number of the file's header, and leave the file where it was."""
    assert image.fp is not None
    before = image.fp.tell()
    image.fp.seek(place)
    number: int = struct.unpack(kind, image.fp.read(struct.calcsize(kind)))[0]
    image.fp.seek(before)
    return number
