"""The weights in the package: ``<name>.safetensors`` beside this file, each with a card ``<name>.md``."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from segnext.one_line import one_line

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
        FileNotFoundError: it is neither, or no path at all.
        IsADirectoryError: it is a folder.
        TypeError: it is an object of another kind, such as a state dict.
        ValueError: it is a pipe or a device.
        OSError: it cannot be looked at.
    """
    if isinstance(source, str) and source in shipped():
        return FOLDER / f"{source}.safetensors"
    return find_file(source, "weights: source must be a file or a shipped name", f"shipped are {_names()}")


def find_file(source: str | os.PathLike[str], expected: str, remedy: str) -> Path:
    """Return the path of a file; errors are those of :func:`locate`.

    Args:
        source: a path; ``~`` is the user's home.
        expected: begins the message, for example ``"weights: source must be a file"``.
        remedy: ends it.
    """
    try:
        given = os.fsdecode(source)
    except TypeError:
        kind = type(source).__name__
        raise TypeError(
            f"{expected}, got a {kind}; model.load_state_dict takes tensors, segnext.weights.from_module takes models"
        ) from None
    shown = one_line(repr(given))
    try:
        path = Path(given).expanduser()
        mode = path.stat().st_mode
    except PermissionError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # no such file; NUL or too long; no such user
        known = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "" if known else f" ({getattr(error, 'strerror', None) or one_line(error)})"
        raise FileNotFoundError(f"{expected}, got {shown}{reason}; {remedy}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{expected}, got the folder {shown}; {remedy}")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{expected}, got {shown}, a pipe or a device; copy it to a file")
    return path


def _names() -> str:
    return ", ".join(shipped()) or "none"
