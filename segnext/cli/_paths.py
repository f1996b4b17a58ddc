"""Says which file a path means."""

from __future__ import annotations

import os
from pathlib import Path


def real_path(file: Path) -> str:
    """Return a file's real path, whatever its name is; links in a circle stay as they are."""
    try:
        return os.path.realpath(file)
    except (OSError, ValueError):  # a name with a null character
        return str(file)


def prepare_file(command: str, option: str, file: Path | None, overwrite: bool) -> None:
    """Make the place of a file that is to be written, before the work: it may be impossible.

    Args:
        command: for messages.
        option: for messages.
        file: None: nothing is to be written.
        overwrite: the file may exist.

    Raises:
        ValueError: it is a folder. FileExistsError: it exists. OSError: the system refuses to write there.
    """
    from segnext.atomic import make_place

    if file is None:
        return
    if file.is_dir():
        raise ValueError(f"{command}: {option} must be a file, got the folder {file}; name a file in it")
    if os.path.lexists(file) and not overwrite:
        raise FileExistsError(f"{command}: {option} must not exist, got {file}; replace it with --overwrite")
    make_place(file)
