"""Lets jobs prepare at the same time and measure one after another."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path

LONGEST = 120.0  # seconds to wait for the preparation of others


class Turns:
    """One job's turn among those that the same parent process runs.

    Between its beginning and `wait` a job prepares. `wait` returns when every job that has begun is prepared, and no
    other is between its `wait` and its end.
    """

    def __init__(self, job: str) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"segnext-turns-{os.getppid()}"
        self._folder.mkdir(exist_ok=True)
        self._begun = self._folder / f"{job.replace(' ', '-')}.{os.getpid()}.begun"

    def __enter__(self) -> Turns:
        self._lock = (self._folder / "lock").open("w")
        self._begun.touch()
        return self

    def wait(self) -> None:
        """Wait for this job's turn."""
        self._begun.unlink(missing_ok=True)
        end = time.monotonic() + LONGEST
        while time.monotonic() < end and any(map(_is_alive, self._folder.glob("*.begun"))):
            time.sleep(0.05)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        self._begun.unlink(missing_ok=True)
        self._lock.close()  # gives the lock back


def _is_alive(begun: Path) -> bool:
    """Whether the process that made the file still runs; one that was killed keeps nobody waiting."""
    with contextlib.suppress(ProcessLookupError, ValueError):
        os.kill(int(begun.suffixes[-2].lstrip(".")), 0)
        return True
    return False
