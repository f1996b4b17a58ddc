"""Finds the images that a command line names, and gives names to their results."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from segnext.data.images import IMAGE_SUFFIXES


def find_images(names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Expand files, folders and glob patterns into image files.

    A folder means the images directly in it; `"photos/**"` means those below it too. A file that is named
    itself is always listed, whatever its suffix; if it is missing, reading it says so. Each file is listed once.

    Args:
        names: as typed; a pattern that the shell left alone (quoted) is expanded here.

    Returns:
        The files in the order given (those of a folder or pattern sorted), and one line for each folder or
        pattern without any image.
    """
    files: dict[Path, Path] = {}
    problems = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = _images(path.iterdir())
            problem = f"{name}: the folder holds no image; use '{name.rstrip('/')}/**' to look below it"
        elif glob.has_magic(name) and not path.exists():
            found = _images(Path(match) for match in glob.glob(str(path), recursive=True))
            problem = f"{name}: no image matches the pattern"
        else:
            found, problem = [path], ""
        if not found:
            problems.append(problem)
        for file in found:
            files.setdefault(file.resolve(), file)
    return list(files.values()), problems


def _images(paths: object) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())  # type: ignore[attr-defined]


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
    resolved = [file.resolve() for file in files]
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
    return names
