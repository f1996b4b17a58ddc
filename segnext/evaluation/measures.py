"""What the result of an evaluation has in common, whatever was evaluated."""

from __future__ import annotations

from typing import Protocol


class Measures(Protocol):
    """The result of evaluating a segmentation (`Evaluation`) or a classifier (`Accuracy`)."""

    @property
    def seconds(self) -> float:
        """Time, including the reading of images."""

    @property
    def headline(self) -> tuple[float, float]:
        """The two measures that a run records, as fractions."""

    def summary(self, classes: tuple[str, ...], /) -> dict[str, object]:
        """Return all measures as plain numbers (JSON), by class name where they are of a class."""
