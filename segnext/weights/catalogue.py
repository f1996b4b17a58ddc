"""The weights in the package: ``<name>.safetensors`` beside this file, each with a card ``<name>.md``."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """List the names of the weights in the package, for ``weights=``."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def card(name: str) -> str:
    """Read the card of shipped weights, in Markdown: data and its terms, recipe, results.

    Raises:
        ValueError: no such weights.
    """
    if name not in shipped():
        raise ValueError(f"card: name must be that of shipped weights, got {name!r}; there are {_names()}")
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def locate(source: str | os.PathLike[str]) -> Path:
    """Find the file of a path or of a shipped name; ``./name`` is always a path.

    Raises:
        FileNotFoundError: it is neither.
        IsADirectoryError: it is a folder.
    """
    if str(source) in shipped():
        return FOLDER / f"{source}.safetensors"
    path = Path(source).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"weights: source must be a file or a shipped name, got the folder {path}")
    if not path.is_file():
        raise FileNotFoundError(
            f"weights: source must be a file or a shipped name, got {str(source)!r}; shipped are {_names()}"
        )
    return path


def _names() -> str:
    return ", ".join(shipped()) or "none"
