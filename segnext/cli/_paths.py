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
