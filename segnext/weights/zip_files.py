"""Opens the zip files that ``torch.save`` writes, hostile ones too."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

# An entry takes about 100 bytes: twice as many as tensors that are read.
LARGEST_DIRECTORY = 4 * 2**20
_LONGEST_ZIP_END = 2**16 + 200  # the last record, before a comment of 64 KB


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file whose directory is not too large to be listed."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_ZIP_END))
        end = file.read()
    found = end.rfind(b"PK\x05\x06")  # the end of the directory, whose size is 12 bytes behind
    directory = int.from_bytes(end[found + 12 : found + 16], "little") if found >= 0 else 0
    if (
        LARGEST_DIRECTORY < directory < 0xFFFFFFFF
        or end.rfind(b"PK\x06\x07") >= 0
        and _zip64_directory(end) > LARGEST_DIRECTORY
    ):
        raise pickle.UnpicklingError(f"its directory has more than {LARGEST_DIRECTORY:,} bytes")
    return zipfile.ZipFile(path)


def _zip64_directory(end: bytes) -> int:
    """Return the size of the directory of a zip file of more than 4 GB or 65,535 entries."""
    found = end.rfind(b"PK\x06\x06")
    return int.from_bytes(end[found + 40 : found + 48], "little") if found >= 0 else 0
