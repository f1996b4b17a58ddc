"""Looks at an image file at a part of the cost of decoding it: its size, turn and kind, and whether it is whole."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from segnext.data.depth import raw_mode
from segnext.data.fingerprints import Fingerprint, fingerprint_of
from segnext.data.images import decoded, opened, orientation, read_image
from segnext.data.png import Rows, chunks

# These are read without a condition, in every colour; what else there is gets decoded, which says whether it can be.
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB"})

_BANDS = {
    **dict.fromkeys(("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N"), "gray"),
    **{"P": "palette", "PA": "palette with alpha", "LA": "gray with alpha", "La": "gray with alpha"},
    **{"RGBa": "RGBA", "F": "floating-point gray"},
}

_PNG_TEXTS = frozenset({b"iTXt", b"tEXt", b"zTXt"})
# A text begins with its key: "Raw profile type exif" or "XML:com.adobe.xmp".
_TURN_KEYS = re.compile(rb"exif|xmp", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What a file says about its image.

    Attributes:
        height: rows of pixels as stored.
        width: columns of pixels as stored.
        orientation: of EXIF, 1 to 8.
        kind: depth and bands, such as "8-bit RGB".
        fingerprint: of the pixels, if it was asked for and they are not too plain.
    """

    height: int
    width: int
    orientation: int
    kind: str = field(default="", compare=False)
    fingerprint: Fingerprint | None = field(default=None, compare=False)

    def size(self, upright: bool) -> tuple[int, int]:
        """Return (height, width), after the turn by EXIF if `upright`."""
        swapped = upright and self.orientation >= 5
        return (self.width, self.height) if swapped else (self.height, self.width)


def read_header(
    path: str | os.PathLike[str],
    read: Callable[[Path], np.ndarray] = read_image,
    *,
    with_fingerprint: bool = False,
) -> Header:
    """Return the header of a file that is whole.

    A PNG is whole if no row is missing and the checksums of its pixels and of all other parts are right; its pixels are
    inflated for that, at 0.7 times the cost of decoding. A JPEG is decoded in small, at half the cost. Any other file,
    and any of a rare kind, is decoded.

    Args:
        path: the file.
        read: decodes a file where only that can tell.
        with_fingerprint: make a fingerprint too. It costs little for a JPEG; a PNG is decoded for it.

    Raises:
        ImageError: the file is missing, damaged or truncated, or no image that `read` takes.
    """
    file = Path(path)
    header = _undecoded(file, with_fingerprint)
    if header is not None:
        return header
    pixels = read(file)
    fingerprint = fingerprint_of(Image.fromarray(pixels)) if with_fingerprint else None
    with opened(file) as image:
        kind = kind_of(image)
        turn = orientation(image)
        height, width = np.array(decoded(image, upright=False)).shape[:2]
        return Header(height, width, turn, kind, fingerprint)


def kind_of(image: Image.Image) -> str:
    """Return depth and bands of an opened, not yet decoded file, such as "8-bit RGB" or "16-bit gray"."""
    raw = raw_mode(image)
    bands = "gray with alpha" if raw.startswith("LA") else _BANDS.get(image.mode, image.mode)
    stored = re.search(r";(\d+)", raw)
    usual = 32 if image.mode == "F" else 16 if image.mode.startswith("I") else 1 if image.mode == "1" else 8
    return f"{int(stored[1]) if stored else usual}-bit {bands}"


def _undecoded(file: Path, with_fingerprint: bool) -> Header | None:
    """Return the header of a whole file; None if only decoding it can tell."""
    if not file.is_file():  # opening a pipe would wait for ever
        return None
    try:
        with file.open("rb") as content, Image.open(content, formats=("JPEG", "PNG")) as image:
            if image.mode not in _PLAIN_MODES or "transparency" in image.info:
                return None
            height, width, kind = image.height, image.width, kind_of(image)
            if image.format == "JPEG":
                draft = image.draft("L", (1, 1))  # an eighth of the size, gray: half the time, and as strict
                turn = orientation(image)
                if not with_fingerprint:
                    return Header(height, width, turn, kind)
                # The last row and column of the small image may lie half outside.
                return Header(height, width, turn, kind, fingerprint_of(image, draft[1] if draft else None))
            if with_fingerprint:
                turn = orientation(decoded(image, upright=False))  # as strict as `read`, of these modes
                return Header(height, width, turn, kind, fingerprint_of(image))
            # an interlaced file is decoded in any case
            if not image.info.get("interlace") and _is_whole_and_upright_png(content):
                return Header(height, width, 1, kind)
    except Exception:  # decoding gives the error that a user is to read
        return None
    return None


def _is_whole_and_upright_png(content: BinaryIO) -> bool:
    """Return whether all checksums and rows are right up to the end, and no part can hold an orientation."""
    rows, before = None, b""
    for name, body, checksum in chunks(content):
        if name == b"IDAT":  # the stream in it has a checksum of its own, which `Rows` looks at
            if rows is None or (rows.size and before != b"IDAT"):
                return False
            rows.add(body)
        elif zlib.crc32(name + body) != checksum:
            return False
        elif name == b"IHDR":
            rows = Rows(body)
        elif name == b"eXIf" or (name in _PNG_TEXTS and _TURN_KEYS.search(body.partition(b"\0")[0])):
            return False
        before = name
    return before == b"IEND" and rows is not None and rows.are_sound
