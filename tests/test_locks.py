"""Locks hold one process at a time, however often they change hands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from segnext import locks


@pytest.fixture
def hasty_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let threads take turns every few instructions, and look at a lock without a pause."""
    monkeypatch.setattr(locks, "_PAUSE", 0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_lock_that_changes_hands_quickly_is_never_an_error(tmp_path: Path) -> None:
    """The owner removes the file at the end: its name may go between any two looks at it."""
    held = list[int]()

    def use(number: int) -> None:
        for _ in range(1000):
            with locks.one_at_a_time(tmp_path / "file.lock", lambda: None):
                held.append(number)
                assert held == [number]
                held.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert not list(tmp_path.iterdir())
