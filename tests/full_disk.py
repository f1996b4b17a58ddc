"""Lets writing fail as on a full disk: the system refuses to make any file of this process larger than a limit."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

MESSAGE = "File too large"  # what the system says; a disk that is full says "No space left on device"


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Refuse to write beyond `limit` bytes in any file. Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
