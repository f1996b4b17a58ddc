"""Counts what a run of the tests proved, to be printed at its end: a verdict alone does not say how much was tested."""

from __future__ import annotations

from collections import Counter

COUNTS: Counter[str] = Counter()


def count(what: str, number: int = 1) -> None:
    """Add a number to a line of the summary."""
    COUNTS[what] += number
