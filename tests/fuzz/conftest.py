"""Gives every fuzzer its random inputs' seed and number, and reports what it tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests import summary


class Fuzzer:
    """Draws cases and collects faults; one fault does not hide the others.

    Attributes:
        seed: of all random numbers; a case's own generator is seeded by (seed, case).
        faults: one line per case that went wrong.
    """

    def __init__(self, seed: int, share: float) -> None:
        self.seed, self.share = seed, share
        self.faults: list[str] = []

    def cases(self, what: str, number: int) -> Iterator[tuple[int, np.random.Generator]]:
        """Yield the index and the generator of each case.

        Args:
            what: names the inputs in the summary, in the plural.
            number: how many there are in a full run; `--fuzz-share` of them are drawn, at least one.
        """
        tried = max(1, math.ceil(number * self.share))
        for case in range(tried):
            yield case, np.random.default_rng([self.seed, case])
        summary.count(f"random {what}", tried)

    def check(self, case: int, run: Callable[[], str | None]) -> None:
        """Run one case; `run` returns a fault in words, or None. An exception that it raises is a fault too."""
        try:
            fault = run()
        except Exception as error:
            fault = f"{type(error).__name__}: {str(error)[:300]}"
        if fault is not None:
            self.faults.append(f"case {case} of seed {self.seed}: {fault}")


@pytest.fixture
def fuzzer(request: pytest.FixtureRequest) -> Iterator[Fuzzer]:
    """A fuzzer for one test, which fails at its end if there is any fault."""
    fuzzer = Fuzzer(request.config.getoption("--fuzz-seed"), request.config.getoption("--fuzz-share"))
    yield fuzzer
    assert not fuzzer.faults, "\n".join([f"{len(fuzzer.faults)} faults", *fuzzer.faults[:20]])
