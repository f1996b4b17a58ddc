"""What a run of the tests proved, counted, and printed at its end: a verdict alone does not say over how much."""

from __future__ import annotations

from collections import Counter

COUNTS: Counter[str] = Counter()


def count(what: str, number: int = 1) -> None:
    """Add to a line of the summary."""
    COUNTS[what] += number
