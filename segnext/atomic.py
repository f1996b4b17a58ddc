"""Replaces files whole or not at all, even if the process or the machine stops in between.

Every file that the library writes goes through here, so that four things hold everywhere: a reader sees the old file
or the new one; a link at the target is replaced and never followed; permissions are those of any new file; an error
of the system (a full disk) names the file.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from segnext.one_line import one_line

# A folder's name may have 255 bytes; the file's own name takes at most this much of its temporary folder's.
_NAME_BYTES = 200


def replace_file(path: str | os.PathLike[str], write: Callable[[Path], object], *, sync: bool = True) -> None:
    """Write a file in a temporary folder beside `path`, bring it to the disk, then rename it to `path`.

    Whoever reads `path` sees the old file or the new one, never half of it. Missing folders are made. A symbolic link
    at `path` is replaced; the file that it points to stays as it is. The folder is temporary, and not only the file,
    because some writers (safetensors) put temporary files of their own beside theirs.

    Args:
        path: the file.
        write: gets the temporary path, which has the name of `path`, and writes the content there. If it raises,
            `path` stays as it was.
        sync: wait for the disk, tens of milliseconds. Without it, whoever kills the process still finds the old file
            or the new one, but a power cut can leave an empty one or a part: only for files that are checked when they
            are used again, and can be made again.

    Raises:
        OSError: the system refuses to write; `filename` is `path`, whatever `write` raised.
        ValueError: no file can have this name, see `at_home`.
    """
    replace_files([path], lambda temporary: write(temporary), sync=sync)


def replace_files(
    paths: Sequence[str | os.PathLike[str]], write: Callable[..., object], *, sync: bool = True
) -> None:
    """Replace several files of one folder that belong together, as `replace_file` does one.

    Whoever looks while they are renamed, or after a kill in that moment, finds some missing, but never old and new ones
    side by side.

    Args:
        paths: the files; they may not share a name.
        write: gets one temporary path for each. If it raises, the files stay as they were.
        sync: see `replace_file`.

    Raises:
        OSError, ValueError: see `replace_file`.
    """
    places = [make_place(path) for path in paths]
    first = places[0]
    with _naming(first):
        folder = Path(tempfile.mkdtemp(".tmp", f"{_prefix(first.name)}.", first.parent))
        try:
            temporary = [folder / path.name for path in places]
            for file in temporary:
                # The system applies the umask and the folder's rules here; some writers (safetensors) apply their own.
                file.touch(0o666)
            mode = stat.S_IMODE(temporary[0].stat().st_mode)
            write(*temporary)
            for file in temporary:
                file.chmod(mode)
                if sync:
                    with file.open("rb+") as opened:
                        os.fsync(opened.fileno())  # a power cut after the rename could leave an empty file
            for path in places[1:]:
                first.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            for file, path in reversed(list(zip(temporary, places, strict=True))):
                os.replace(file, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if sync:
            sync_folder(first.parent)


def replace_folder(path: str | os.PathLike[str], write: Callable[[Path], object], marked_by: str) -> None:
    """Replace a folder that one writer makes as a whole, as `replace_file` does a file.

    Args:
        path: the folder.
        write: gets a path beside `path`, which does not exist, and makes the folder there. If it raises, `path` stays
            as it was.
        marked_by: a file of every such folder. A folder without it is something else, and is never replaced.

    Raises:
        OSError: the system refuses to write, or something else is at `path`. ValueError: see `at_home`.
    """
    place = at_home(path)
    with _naming(place):
        if os.path.lexists(place) and not (place / marked_by).is_file():
            raise OSError(
                f"save: {place} must be a folder with {marked_by} to be replaced, got another; name another"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(".tmp", f"{_prefix(place.name)}.", place.parent))
        try:
            new, old = folder / place.name, folder / "old"
            write(new)
            for file in new.rglob("*"):
                if file.is_file():
                    with file.open("rb+") as opened:
                        os.fsync(opened.fileno())  # as in `replace_files`
            if os.path.lexists(place):
                os.replace(place, old)
            os.replace(new, place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        sync_folder(place.parent)


def make_place(path: str | os.PathLike[str]) -> Path:
    """Make the folders in which a file is to be written, and return its path, see `at_home`.

    Raises:
        OSError: the system refuses to make them or to write there, or what has the file's name is none; `filename` is
            `path`.
        ValueError: no file can have this name, see `at_home`.
    """
    path = at_home(path)
    with _naming(path):
        if path.exists() and not path.is_file():
            raise OSError(
                f"save: {path} must be a regular file, got a folder, a pipe or a device; name another"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # it is a file, or a link to nothing
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return path


def at_home(path: str | os.PathLike[str]) -> Path:
    """Return a path to write to, in which ``~`` is the user's home, as in paths to read.

    Shells leave it as it is in ``--output=~/masks``; without this, a folder of that name appears in the working one.

    Raises:
        ValueError: there is no such user, or the path holds a null character.
    """
    shown = one_line(repr(os.fspath(path)), 240)
    if "\0" in str(path):
        raise ValueError(f"save: path must have no null character, got {shown}; name another")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"save: path must begin with the home of a user, got {shown}; or write ./~"
        ) from None


def replace_bytes(path: str | os.PathLike[str], content: bytes, *, sync: bool = True) -> None:
    """Replace a file by bytes in memory; see `replace_file`.

    Encoders that hide a full disk are used this way: Pillow leaves half a JPEG without an error, and torch.save says
    nothing but "unexpected pos". What they wrote is taken by ``getvalue()``, which copies nothing: a failed write keeps
    ``content`` in a cycle of exception and frame, and Python 3.12 crashes when it collects a view by ``getbuffer()``.
    """
    replace_file(path, lambda temporary: temporary.write_bytes(content), sync=sync)


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace a text file, in UTF-8; see `replace_file`."""
    replace_bytes(path, text.encode("utf-8"))


def append_text(path: str | os.PathLike[str], text: str) -> None:
    """Append to a file of records and bring it to the disk; if this fails, the file is as long as before.

    A power cut can still leave a part of `text`: readers take only lines with an end (`whole_lines`).

    Args:
        path: the file; a symbolic link is not followed.
        text: whole lines.

    Raises:
        OSError: the system refuses to write; `filename` is `path`.
    """
    path = at_home(path)
    with _naming(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        # Without a buffer, which would try to write the rest again on closing.
        with open(os.open(path, flags, 0o666), "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            content = memoryview(text.encode("utf-8"))
            try:
                while content:
                    content = content[file.write(content) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise


def whole_lines(path: str | os.PathLike[str]) -> list[str]:
    """Return the lines of a file of records without their ends; a last line that was not written whole is left out."""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    return lines[:-1]


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove what processes that were killed in `replace_file` left in `folder` beside files of these names."""
    prefixes = {_prefix(name) for name in names}
    for leftover in folder.iterdir():
        found = re.fullmatch(r"(.*)\.\w+\.tmp", leftover.name, re.DOTALL)
        if found is None or found[1] not in prefixes:
            continue
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring renamed and removed names to the disk, where the system can do this for a folder."""
    with suppress(OSError):  # some network file systems cannot; the files themselves are in place
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _prefix(name: str) -> str:
    # In the system's encoding: where that is ASCII, what it lacks is left out.
    return "." + os.fsencode(name)[:_NAME_BYTES].decode(sys.getfilesystemencoding(), "ignore")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error of the system name `path` instead of a temporary file, or no file at all."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # one of ours, in words
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except Exception as error:
        # safetensors hides the system's error in one of its own, which is not an OSError.
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
