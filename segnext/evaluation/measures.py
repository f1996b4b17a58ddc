"""What the result of an evaluation has in common, whatever was evaluated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

Result = TypeVar("Result", bound="Measures")


class Measures(Protocol):
    """The result of evaluating a segmentation (`Evaluation`) or a classifier (`Accuracy`)."""

    @property
    def seconds(self) -> float:
        """Time, including the reading of images."""

    @property
    def headline(self) -> tuple[float, float]:
        """The two measures that a run records, as fractions."""

    def of_all(self: Result, summed: Callable[[Tensor], Tensor], images: int, /) -> Result:
        """Return the measures of a whole set of images, of which each process has counted its share.

        Args:
            summed: gives a tensor's sum over all processes.
            images: number of images in the whole set.
        """

    def summary(self, classes: tuple[str, ...], /) -> dict[str, object]:
        """Return all measures as plain numbers (JSON), by class name where they are of a class."""
