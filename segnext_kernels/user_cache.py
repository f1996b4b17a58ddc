"""Small JSON files in the user's cache folder, which keep results that were found once on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any


def folder(name: str) -> Path:
    """``name`` in the user's cache folder; it need not exist."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "segnext" / name


def file_name(*words: str) -> str:
    """A file name from words that may hold any characters."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(words)) + ".json"


def read(path: Path) -> dict[str, Any]:
    """The file's content; empty if it is missing or broken, because everything in it can be found again."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace the file in one step, so that no reader sees half of it. If nothing can be written, nothing is kept."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".json")
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=1, sort_keys=True)
        os.replace(temporary, path)
