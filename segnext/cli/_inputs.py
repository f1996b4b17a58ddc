"""Finds the images that a command line names, and gives names to their results."""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from segnext.cli._paths import real_path
from segnext.cli._show import ENDINGS as SHOWN_ENDINGS
from segnext.data.images import IMAGE_SUFFIXES

RESULT_ENDINGS = ("_mask.png", "_overlay.jpg", "_overlay.png", "_compare.jpg", *SHOWN_ENDINGS)
# A file's name may have 255 bytes, and a result's name ends with the longest of these.
_LONGEST = 255 - max(map(len, RESULT_ENDINGS))


class Found(NamedTuple):
    """The images of a command line.

    Attributes:
        files: in the order given; those of a folder or pattern are sorted.
        problems: one line for each folder or pattern without any image or that cannot be read.
        left_out: files of folders and patterns that look like results.
    """

    files: list[Path]
    problems: list[str]
    left_out: list[Path]


def find_images(names: Sequence[str], results: Path | None = None) -> Found:
    """Expand files, folders and glob patterns into image files.

    A folder means the images directly in it; `"photos/**"` means those below it too. Hidden files and folders are left
    out, as a shell does. Links to folders are followed, but no folder is searched twice. A file that is named itself is
    always listed, whatever its suffix; if it is missing, reading it says so. Each file is listed once.

    Args:
        names: as typed; a pattern that the shell left alone (quoted) is expanded here.
        results: a folder whose masks and overlays are left out of folders and patterns: they are results, not
            photographs.
    """
    files: dict[str, Path] = {}
    left_out: dict[str, Path] = {}
    problems: list[str] = []
    for name in names:
        path = os.path.expanduser(name)
        problem = ""
        try:
            if not name:
                found, problem = [], "'': the empty name is no image"
            elif os.path.isdir(path):
                problem = f"{name}: the folder holds no image; use '{name.rstrip('/')}/**' to look below it"
                entries = [entry for entry in os.listdir(path) if not entry.startswith(".")]
                found = _images(os.path.join(path, entry) for entry in entries)
            elif glob.has_magic(name) and not os.path.lexists(path):
                problem = f"{name}: no image matches the pattern"
                found = _images(_expand(path, problems))
            else:
                found = [Path(path)]
        except OSError as error:
            found, problem = [], _unreadable(name, error)
        if not found:
            problems.append(problem)
        for file in found:
            (left_out if problem and _is_result(file, results) else files).setdefault(real_path(file), file)
    return Found(list(files.values()), problems, [left_out[file] for file in left_out if file not in files])


def _images(paths: Iterable[str]) -> list[Path]:
    return sorted(
        Path(path)
        for path in set(paths)
        if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES and os.path.isfile(path)
    )


def _expand(pattern: str, problems: list[str]) -> Iterator[str]:
    """Yield what matches a pattern; `glob` itself would follow links in a circle for ever at `**`."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    place = parts.index("**")
    above, below = os.sep.join(parts[:place]), os.sep.join(parts[place + 1 :]) or "*"
    starts = glob.glob(above or os.sep) if place else [os.curdir]
    for folder in _folders(starts, problems):
        yield from _expand(os.path.join(glob.escape(folder), below), problems)


def _folders(starts: Sequence[str], problems: list[str]) -> Iterator[str]:
    """Yield folders and those below them, links followed, hidden ones left out, each once."""

    def name_it(error: OSError) -> None:
        problems.append(_unreadable(error.filename, error))

    seen: set[str] = set()
    for start in starts:
        for folder, below, _ in os.walk(start, onerror=name_it, followlinks=True):
            if os.path.realpath(folder) in seen:
                below.clear()
                continue
            seen.add(os.path.realpath(folder))
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield folder


def _unreadable(folder: str, error: OSError) -> str:
    return f"{folder}: the folder cannot be read ({error.strerror})"


def _is_result(file: Path, results: Path | None) -> bool:
    return (
        results is not None
        and file.name.endswith(RESULT_ENDINGS)
        and os.path.realpath(file.parent) == os.path.realpath(results)
    )


def result_names(files: Sequence[Path]) -> list[str]:
    """Give the results of each file a name of their own: the file's stem wherever that is enough.

    Equal stems get as many folder names in front as they need to differ (``berlin_001`` and ``bonn_001``); equal
    stems in one folder get their suffix (``a_jpg`` and ``a_png``). Names that differ only in case count as equal,
    because some file systems ignore case.

    Args:
        files: distinct files.

    Returns:
        One name per file, without suffix.
    """
    resolved = [Path(real_path(file)) for file in files]
    same_place = Counter(str(file.with_suffix("")).lower() for file in resolved)
    parts = []
    for file in resolved:
        twins = same_place[str(file.with_suffix("")).lower()] > 1
        last = f"{file.stem}_{file.suffix.removeprefix('.')}" if twins else file.stem
        parts.append([*file.parts[1:-1], last])
    depth = [1] * len(parts)
    while True:
        names = ["_".join(part[-d:]) for part, d in zip(parts, depth, strict=True)]
        uses = Counter(name.lower() for name in names)
        grown = False
        for index, name in enumerate(names):
            if uses[name.lower()] > 1 and depth[index] < len(parts[index]):
                depth[index] += 1
                grown = True
        if not grown:
            break
    # Folders joined by "_" can still collide: a_b/c and a/b_c, both at full depth.
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name.lower()] += 1
        if uses[name.lower()] > 1:
            names[index] = f"{name}_{seen[name.lower()]}"
    return [_fitting(name) for name in names]


def _fitting(name: str) -> str:
    """Cut a name so that a folder takes its results; a digest of the whole name keeps them apart."""
    content = os.fsencode(name)
    if len(content) <= _LONGEST:
        return name
    digest = hashlib.blake2b(content, digest_size=4).hexdigest()
    return f"{content[: _LONGEST - 9].decode(sys.getfilesystemencoding(), 'ignore')}_{digest}"
