"""Leaves a process little memory, as a small machine has; Linux alone tells how much it has already."""

from __future__ import annotations

import resource
from pathlib import Path

SIZE = Path("/proc/self/statm")


def leave(extra: int) -> None:
    """Refuse this process, from now on, more than `extra` bytes beyond those that it has mapped."""
    limit = int(SIZE.read_text().split()[0]) * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
