"""Replaces files whole or not at all, even if the process or the machine stops in between."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path


def replace_file(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name in the same folder, bring it to the disk, then rename it to `path`.

    Whoever reads `path` sees the old file or the new one, never half of it. Missing folders are made.

    Args:
        path: the file.
        write: gets the temporary path and writes the content there. If it raises, `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # without it, a power cut after the rename could leave an empty file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files beside `path` that killed processes left there."""
    path = Path(path)
    name = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    for temporary in path.parent.iterdir():
        if name.fullmatch(temporary.name):
            temporary.unlink(missing_ok=True)
