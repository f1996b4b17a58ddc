"""Published weights in the cache folder of torch hub: fetched once, checked, and used from there without a network."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from segnext.atomic import replace_bytes, sync_folder
from segnext.locks import one_at_a_time
from segnext.one_line import one_line
from segnext.weights.published import Published
from segnext.weights.transfer import CHUNK, DownloadError, Report, bring, discard
from segnext.weights.zip_files import open_zip

if TYPE_CHECKING:
    from rich.console import Console

OFFLINE = ("SEGNEXT_OFFLINE", "HF_HUB_OFFLINE")
MIRROR = "SEGNEXT_MIRROR"
_OFF = ("", "0", "false", "no", "off")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def place(published: Published) -> Path:
    """Return where a file is, or will be: where torch hub and mmengine keep it too, under the same name."""
    import torch

    return Path(torch.hub.get_dir()).expanduser() / "checkpoints" / published.file


def fetch(published: Published) -> Path:
    """Return the file of published weights; it is downloaded if it is not in the cache.

    A file in the cache is checked once, and again when its size or its date changes.

    Raises:
        DownloadError: there is no network, the server has no such file, what came is damaged, the disk is full, the
            folder cannot be written, or downloads are switched off; the message has one line.
        ValueError: SEGNEXT_MIRROR is no address.
    """
    path = place(published)
    problem = _problem_in_cache(published, path)
    if problem is None:
        return path
    url = address(published)
    if (variable := _offline()) is not None:
        raise DownloadError(
            f"weights: {published.name} must be in the cache, as {variable} is set, got {problem}; "
            f"{_by_hand(published, path)}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path.with_name(f"{path.name}.lock"), lambda: _say(_waiting(published))):
            problem = _problem_in_cache(published, path)  # another process may have brought it
            if problem is not None:
                if path.exists():
                    _say(f"note: it is fetched again: the cache has {problem}")
                _download(published, url, path)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"weights: cache must be writable for {published.name}, got {error.strerror or one_line(error)!r} for "
            f"{path.parent}; let TORCH_HOME name another folder"
        ) from None
    return path


def address(published: Published) -> str:
    """Return where a file is fetched from: its own address, or the same path at SEGNEXT_MIRROR, a server or a folder.

    Raises:
        ValueError: the variable is neither an address nor a folder.
    """
    mirror = os.environ.get(MIRROR, "").strip()
    if not mirror:
        return published.url
    if "://" not in mirror:
        folder = Path(mirror).expanduser().absolute()
        if not folder.is_dir():
            raise ValueError(
                f"weights: {MIRROR} must be https://... or a folder, got {one_line(repr(mirror))}"
            )
        mirror = folder.as_uri()
    if urlsplit(mirror).scheme not in ("http", "https", "file"):
        raise ValueError(f"weights: {MIRROR} must be https://... or a folder, got {one_line(repr(mirror))}")
    return mirror.rstrip("/") + urlsplit(published.url).path


def _offline() -> str | None:
    """Return the variable that forbids downloads, if one does."""
    return next((name for name in OFFLINE if os.environ.get(name, "").strip().lower() not in _OFF), None)


def _by_hand(published: Published, path: Path) -> str:
    return f"fetch {published.url} elsewhere, and copy it to {path}"


def _waiting(published: Published) -> str:
    return f"waiting for another process, which downloads {published.name}"


def _problem_in_cache(published: Published, path: Path) -> str | None:
    """Return what is wrong with the file in the cache, or None: it is there and whole."""
    try:
        status = path.stat()
    except OSError:
        return f"no {path}"
    stamp = _read_stamp(path)
    if (stamp.get("size"), stamp.get("mtime_ns")) == (status.st_size, status.st_mtime_ns) and (
        published.sha256 in (None, stamp.get("sha256"))
    ):
        return None
    # A file that was whole and is another one now was damaged since, or replaced by hand.
    sha256 = _sha256(path)
    problem = _problem(published, path, sha256, published.sha256)
    if problem is None:
        _write_stamp(path, sha256)
        return None
    return f"{path}, {problem}"


def _problem(published: Published, path: Path, sha256: str, expected: str | None) -> str | None:
    """Return what is wrong with a file, in words, or None."""
    size = path.stat().st_size
    if published.size not in (None, size):
        return f"{size:,} bytes instead of {published.size:,}"
    if expected is not None:
        return None if sha256 == expected else f"with SHA-256 {sha256[:8]}... instead of {expected[:8]}..."
    with path.open("rb") as file:
        head = file.read(4)
    if head == _ZIP:
        return _problem_in_zip(path)
    return None if head.startswith(_PICKLE) else f"which begins with {head!r} and is no checkpoint"


def _problem_in_zip(path: Path) -> str | None:
    """Read all of a zip file, whose entries have checksums."""
    try:
        with open_zip(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        return f"which is cut or damaged ({one_line(error)})"
    except Exception as error:  # zlib's own, and what else a damaged directory can raise
        return f"which is damaged ({one_line(error)})"
    return None if damaged is None else f"whose entry {one_line(damaged)} is damaged"


def _download(published: Published, url: str, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    cure = f"connect, set {MIRROR} to a server that has a copy, or {_by_hand(published, path)}"
    with _progress(published, url) as report:
        received = bring(url, part, published.name, cure, report)
        problem = _problem(published, part, received.sha256, published.sha256)
        if problem is not None and received.resumed:  # the parts may be of two files
            discard(part)
            received = bring(url, part, published.name, cure, report)
            problem = _problem(published, part, received.sha256, published.sha256)
    if problem is not None:
        discard(part)
        raise DownloadError(
            f"weights: {published.name} must be the published file, got one from {urlsplit(url).netloc or url} "
            f"{problem}; try again, or pass the path of a file that you trust"
        )
    os.replace(part, path)
    sync_folder(path.parent)
    discard(part)
    _write_stamp(path, received.sha256)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _stamp(path: Path) -> Path:
    return path.with_name(f"{path.name}.checked")


def _read_stamp(path: Path) -> dict[str, Any]:
    try:
        stamp = json.loads(_stamp(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _write_stamp(path: Path, sha256: str) -> None:
    """Remember that a file is whole: reading 200 MB takes 0.4 s, at each use."""
    status = path.stat()
    content = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
    with suppress(OSError):  # a cache that others filled may be read-only
        replace_bytes(_stamp(path), json.dumps(content).encode(), sync=False)


def _console() -> Console:
    from rich.console import Console

    # Of several processes that torchrun started, one speaks.
    return Console(stderr=True, highlight=False, soft_wrap=True, quiet=os.environ.get("RANK", "0") != "0")


def _say(text: str) -> None:
    _console().print(f"segnext: {text}", markup=False)


@contextmanager
def _progress(published: Published, url: str) -> Iterator[Report]:
    """Show a bar on a terminal, and one line elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    console = _console()
    if not sys.stderr.isatty():
        size = f" ({published.size / 1e6:.0f} MB)" if published.size else ""
        _say(f"downloading {published.name}{size} from {urlsplit(url).netloc or url}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(published.name, total=published.size)

        def report(have: int, total: int | None) -> None:
            progress.update(task, completed=have, total=total)

        yield report
