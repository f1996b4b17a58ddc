"""Keeps two processes from writing into one folder, or lets one wait for the other."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = ".lock"
_PAUSE = 0.2  # seconds between two looks at a lock that another holds
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


@contextmanager
def sole_use(command: str, folder: Path) -> Iterator[None]:
    """Hold `folder`/.lock; the system frees it when the process dies, however it dies.

    A file system that has no locks is used without one.

    Args:
        command: what wants the folder; it stands in front of the error.
        folder: must exist.

    Raises:
        FileExistsError: another process, or another call in this one, holds it; or a link has its name.
    """
    path = folder / _NAME
    if path.is_symlink():
        raise FileExistsError(f"{command}: {path} must be no link, which would lead elsewhere; remove it")
    descriptor = _locked(path)
    if descriptor is None:
        raise FileExistsError(
            f"{command}: output must not be in use, got {folder}, where another process is at work; "
            "wait until it ends, or choose another --output"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def one_at_a_time(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold a lock of this name, and wait for it as long as another process has it; the system frees it as above.

    Args:
        path: the lock's file; its folder must exist.
        waiting: is called once if there is a wait.

    Raises:
        OSError: the file cannot be made, or it is a link.
    """
    descriptor = _locked(path)
    if descriptor is None:
        waiting()
    while descriptor is None:
        time.sleep(_PAUSE)
        descriptor = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Return an open file that is locked and still has its name; None if another has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(descriptor)
                raise
        # Its last owner may have removed the name between our two calls; then another process can make a new file.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
