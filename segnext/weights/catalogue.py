"""Finds weights: by the name of a file in the package, by the name of a published one, or by a path.

Those in the package are ``<name>.safetensors`` beside this file, each with a card ``<name>.md``.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from segnext.one_line import one_line
from segnext.weights import downloads, published
from segnext.weights.published import Published

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


def list_weights() -> list[str]:
    """List all names for ``weights=``: those of the weights in the package, then those that are downloaded."""
    return [*shipped(), *published.list_published()]


def locate(source: str | os.PathLike[str]) -> Path:
    """Find the file of a path or of a name, and download it if need be; see :func:`find_weights`."""
    return find_weights(source)[0]


def find_weights(
    source: str | os.PathLike[str], architecture: str | None = None, part: str = "all"
) -> tuple[Path, Published | None]:
    """Find the file of a path, of a shipped name or of a published one, which is downloaded if it is not in the cache.

    ``./name`` is always a path.

    Args:
        source: the path or name; with an architecture also a group of published ones, such as ``"ade20k"``.
        architecture: of the model that is to get the weights, if it is known.
        part: ``"backbone"`` if the encoder alone will be loaded.

    Returns:
        The file, and what is known about it if it is a published one.

    Raises:
        FileNotFoundError: it is none of them.
        IsADirectoryError: it is a folder.
        TypeError: it is an object of another kind, such as a state dict.
        ValueError: it is a pipe or a device; or the name of weights of another architecture, or of a group alone.
        OSError: it cannot be looked at, or it cannot be downloaded.
    """
    if isinstance(source, str) and source in shipped():
        return FOLDER / f"{source}.safetensors", None
    if (found := published.find(source, architecture, part)) is not None:
        return downloads.fetch(found), found
    others = "`segnext weights` lists those to download"
    if (
        isinstance(source, str) and source == Path(source).stem
    ):  # with a suffix or a folder it was meant as a path
        others = published.suggestion(source)
    return find_file(
        source, "weights: source must be a file or a shipped name", f"shipped are {_names()}; {others}"
    ), None


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
