"""Finds the images and label maps of a split on disk and pairs them by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from segnext.data.images import IMAGE_SUFFIXES
from segnext.data.labels import LABEL_SUFFIXES

# Folders that link to each other show their files by every path without a loop: more links, many more paths.
MOST_LINKS = 4


def find_pairs(
    images: Path,
    labels: Path,
    image_suffix: str = "",
    label_suffix: str = "",
    names: str | Path | None = None,
) -> list[tuple[Path, Path]]:
    """Return image and label files in the order of their common names.

    Folders below and links to folders are followed; a link to a folder above it adds nothing. Files and folders
    whose names begin with a dot are left out.

    Args:
        images: folder of images.
        labels: folder of label maps; it may be the same one, if a suffix tells them apart.
        image_suffix: end of the images' names, with or without the extension; other files are left out.
        label_suffix: the same for the label maps' names.
        names: text file with one name per line; other files are left out. None: all files are taken.

    Raises:
        FileNotFoundError: a folder is missing or empty, or the list is missing.
        ValueError: images and labels do not pair up; a folder cannot be read, or a link leads nowhere.
    """
    image_files = _files_by_name(images, IMAGE_SUFFIXES, image_suffix, "images")
    label_files = _files_by_name(labels, LABEL_SUFFIXES, label_suffix, "labels")
    itself = next((file for name, file in image_files.items() if label_files.get(name) == file), None)
    if itself is not None:
        raise ValueError(
            f"data: an image and its label must be two files, got {itself} for both; tell them apart by image_suffix "
            "and label_suffix in the data YAML, or by folders"
        )
    if names is not None:
        common = _listed(Path(names), image_suffix)
        for files, what, folder in ((image_files, "image", images), (label_files, "label", labels)):
            missing = sorted(set(common) - files.keys())
            if missing:
                raise ValueError(
                    f"data: every name in {names} must have its {what} in {folder}, got {len(missing)} of "
                    f"{len(common)} without ({_some(missing)}); a name is the file's path in that folder without "
                    "extension and suffix"
                )
        return [(image_files[name], label_files[name]) for name in common]
    for have, lack, what, folder in (
        (image_files, label_files, "image", labels),
        (label_files, image_files, "label", images),
    ):
        unpaired = sorted(have.keys() - lack.keys())
        if unpaired:
            raise ValueError(
                f"data: every {what} must have its partner in {folder}, "
                f"got {len(unpaired)} of {len(have)} without ({_some([have[name].name for name in unpaired])}); "
                "an image and its label have the same name up to the suffix; if more differs, say it with "
                "image_suffix and label_suffix in the data YAML, and name the files of a split with list"
            )
    return [(image_files[name], label_files[name]) for name in sorted(image_files)]


def _listed(file: Path, image_suffix: str) -> list[str]:
    """Return the names in a text file, sorted."""
    if not file.is_file():
        raise FileNotFoundError(
            f"data: list must be a text file with one name per line, got {file}, which {_is(file)}; correct "
            "the data YAML, or give the data set's folder with --root"
        )
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    # Some lists name the image file itself, with extension and suffix.
    names = [
        _common_name(PurePosixPath(line), IMAGE_SUFFIXES, image_suffix) or line for line in lines if line
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        found = f"{twice[0]} twice" if twice else "none"
        raise ValueError(f"data: {file} must name each file of the split once, one per line, got {found}")
    return sorted(names)


def _files_by_name(folder: Path, extensions: frozenset[str], suffix: str, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data: {what} must be a folder, got {folder}, which {_is(folder)}; correct the data YAML, or "
            "give the data set's folder with --root"
        )
    files: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in sorted(_files_below(folder, extensions)):
        name = None
        if path.suffix.lower() in extensions:
            name = _common_name(PurePosixPath(path.relative_to(folder).as_posix()), extensions, suffix)
        if name is None:
            others[path.suffix or path.name] += 1
            continue
        if name in files:
            raise ValueError(
                f"data: names in {folder} must differ in more than the suffix, got {files[name].name} and "
                f"{path.name}; remove one of them"
            )
        files[name] = path
    if not files:
        ending = f" whose names end with {suffix}" if suffix else ""
        counted = ", ".join(f"{count} {kind}" for kind, count in others.most_common(3))
        is_lossy = what == "labels" and counted and not any(kind.lower() in extensions for kind in others)
        lossless = "; labels must be lossless, store them as PNG" if is_lossy else ""
        raise FileNotFoundError(
            f"data: {folder} must hold {what}{ending} ({' '.join(sorted(extensions))}), got none"
            + (f", but {counted}" if counted else "")
            + lossless
        )
    return files


def holds_files(folder: Path, extensions: frozenset[str], suffix: str) -> bool:
    """Say whether a folder, or one below it, holds a file that `find_pairs` would take; stop at the first."""
    return any(
        path.suffix.lower() in extensions and _common_name(PurePosixPath(path.name), extensions, suffix)
        for path in _files_below(folder, extensions)
    )


def _files_below(folder: Path, extensions: frozenset[str]) -> Iterator[Path]:
    """Yield all files in and below a folder but the hidden ones."""
    waiting: list[tuple[Path, tuple[tuple[int, int], ...], int]] = [(folder, (_identity(folder),), 0)]
    while waiting:
        place, above, links = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except PermissionError:
            raise ValueError(
                f"data: {place} must be a folder that can be read, got permission denied"
            ) from None
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if os.path.isdir(path):
                identity, followed = _identity(path), links + entry.is_symlink()
                if followed > MOST_LINKS:
                    raise ValueError(
                        f"data: a path below {folder} must follow at most {MOST_LINKS} links, got {path}; remove one"
                    )
                if identity not in above:  # else it is a loop, and what it shows is listed already
                    waiting.append((path, (*above, identity), followed))
            elif path.suffix.lower() in extensions or not entry.is_symlink() or os.path.exists(path):
                yield path  # reading an image that does not exist gives its own error
            else:
                raise ValueError(
                    f"data: a link below {folder} must lead somewhere, got {path} to {os.readlink(path)}; "
                    "mount its disk or remove the link"
                )


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _common_name(path: PurePosixPath, extensions: frozenset[str], suffix: str) -> str | None:
    """Return the path that an image shares with its label, without extension and suffix; None without that suffix."""
    extension = path.suffix if path.suffix.lower() in extensions else ""
    for name in (path.name.removesuffix(extension), path.name):
        common = name.removesuffix(suffix)
        if name.endswith(suffix) and common:
            return (path.parent / common).as_posix()
    return None


def _is(path: Path) -> str:
    """Say what is at a path where something else was expected."""
    if not path.exists():
        return "is a link to nothing" if path.is_symlink() else "does not exist"
    return "is a folder" if path.is_dir() else "is a file" if path.is_file() else "is a pipe or a device"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
