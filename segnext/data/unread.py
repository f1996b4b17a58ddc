"""Says what a file is that is not read as an image, as well as its first bytes tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from PIL import TiffImagePlugin

_OTHER_FORMATS = {
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"\x89HDF": "HDF5",
    b"<svg": "SVG",
    b"<?xml": "XML",
}
_HEIF_BRANDS = frozenset(
    (b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevm", b"hevs", b"hevx", b"mif1", b"msf1")
)


def unidentified(stream: BinaryIO, formats: Iterable[str]) -> str:
    """Return why a file is not read, to follow its name; `formats` are those that are."""
    start = stream.read(64)
    other = next((name for mark, name in _OTHER_FORMATS.items() if start.lstrip().startswith(mark)), None)
    if other is None and start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        other = "HEIF"
    if other is not None:
        return f"is a {other} file, which is not opened; convert it to PNG or JPEG"
    if start[:4] in TiffImagePlugin.PREFIXES:
        return _unread_tiff(stream)
    return f"not an image in a format that is read ({', '.join(formats)})"


def _unread_tiff(stream: BinaryIO) -> str:
    """Say what a TIFF holds that Pillow does not know."""
    try:
        stream.seek(0)
        directory = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
        stream.seek(directory.next)
        directory.load(stream)
        bands, bits = directory[TiffImagePlugin.SAMPLESPERPIXEL], directory[TiffImagePlugin.BITSPERSAMPLE]
        colours = directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION]
        kind = directory.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0]
    except Exception:  # a parser can raise any error on damaged data
        return "not an image, its TIFF header is damaged"
    what = f"a TIFF of {bands} band{'s' * (bands > 1)} of {bits[0]} bits"
    if kind != 1 or bits[0] not in (8, 16):
        numbers = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers"}
        return (
            f"{what} ({numbers.get(kind, f'sample format {kind}')}), which are not read; scale them to 8 bits "
            "(gdal_translate -ot Byte -scale LOW HIGH)"
        )
    if colours not in (0, 1, 2):
        return f"{what} in a colour space that is not read (photometric {colours}); save it as RGB"
    if bands < 3:
        return (
            f"{what} in a form that is not read; write one band alone, with 0 as black (gdal_translate -b 1)"
        )
    return (
        f"{what}, in an order that does not tell which are red, green and blue; "
        "write these three alone (gdal_translate -b 3 -b 2 -b 1 -co PHOTOMETRIC=RGB)"
    )
