"""Reads the parts of a PNG file, and counts the rows in its compressed stream.

A stream may end before the last row although the checksums of all parts are right: a faulty program wrote it so.
Pillow gives 0 for the rows that are missing, without an error: black, or class 0.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced image: the first column and row of each pass, and the steps to the next ones."""

_LAST_FILTER = 4
# Bytes that are inflated at once, so that a large image does not need memory of its size; more are no faster.
_PIECE = 1 << 16


def chunks(content: IO[bytes]) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield the name, body and checksum of each part up to IEND, or up to the end of the file."""
    content.seek(len(_SIGNATURE))
    name = b""
    while name != b"IEND" and len(head := content.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        yield name, content.read(length), int.from_bytes(content.read(4), "big")


class Rows:
    """The rows in a compressed stream, which is inflated part by part, and not kept.

    Args:
        header: the body of the PNG's IHDR.

    Attributes:
        size: bytes so far, each row with its filter.
    """

    def __init__(self, header: bytes) -> None:
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        passes = _PASSES if interlaced else ((0, 0, 1, 1),)
        bits = depth * _CHANNELS[colour]
        sizes = [(-((left - width) // right), -((top - height) // down)) for left, top, right, down in passes]
        # Each row begins with a byte that names its filter; a pass without columns has no rows.
        lengths = [
            (rows, 1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0
        ]
        self._needed = sum(rows * length for rows, length in lengths)
        self._step = 0 if interlaced else lengths[0][1]
        self.size = 0
        self._has_known_filters = True
        self._inflate = zlib.decompressobj()

    def add(self, body: bytes) -> None:
        """Take the body of the next IDAT; raises `zlib.error` if the stream is damaged."""
        for start in range(0, len(body), _PIECE):
            rest, is_full = body[start : start + _PIECE], True
            # A full piece may leave more inside; what is behind the last row, or the stream's end, does not matter.
            while is_full and self.size <= self._needed and not self._inflate.eof:
                piece = self._inflate.decompress(rest, _PIECE)
                rest, is_full = self._inflate.unconsumed_tail, len(piece) == _PIECE
                self._count(piece)

    def _count(self, piece: bytes) -> None:
        if self._step:
            filters = piece[-self.size % self._step :: self._step]
            self._has_known_filters &= max(filters, default=0) <= _LAST_FILTER
        self.size += len(piece)

    @property
    def are_complete(self) -> bool:
        """Whether no row is missing."""
        return self.size >= self._needed

    @property
    def are_sound(self) -> bool:
        """Whether decoding takes them: none is missing or too many, filters are known, the checksum is right.

        An interlaced image is never sound here, since its filters are not looked at.
        """
        return (
            bool(self._step) and self._has_known_filters and self._inflate.eof and self.size == self._needed
        )


def lacks_rows(content: IO[bytes]) -> bool:
    """Return whether the compressed stream of a PNG that Pillow decoded ends before its last row."""
    rows, before = None, b""
    for name, body, _ in chunks(content):
        if name == b"IHDR":
            rows = Rows(body)
        elif name == b"IDAT" and rows is not None:
            rows.add(body)
        elif before == b"IDAT":
            break
        before = name
    return rows is None or not rows.are_complete
