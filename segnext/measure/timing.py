"""Times variants that are compared: they take turns, so that a busy machine slows all of them down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

Run = Callable[[], Any]
Turn = Callable[[], float]
"""The turn of one variant in a round: it returns the seconds of the timed call."""


def turn(run: Run, *, warm_up: bool = True) -> Turn:
    """Return a turn that times one call by the wall clock.

    Args:
        run: the variant.
        warm_up: call it once before: caches and threads are then in the state that the variant itself leaves,
            whichever variant ran before it.
    """
    return partial(_turn, run, warm_up)


def _turn(run: Run, warm_up: bool) -> float:
    if warm_up:
        run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(
    turns: Mapping[str, Turn],
    seconds: float,
    *,
    least: int = 5,
    most: int = 100,
    before_turn: Callable[[int, str], object] = lambda number, name: None,
) -> dict[str, list[float]]:
    """Return the seconds of each variant in each round; every variant has one turn per round.

    Args:
        turns: the variants, see `turn`; each has run before, so that nothing is left to compile.
        seconds: time for all rounds; no round begins that would probably end later.
        least: this many rounds are run, however long they take.
        most: no more rounds than this are run.
        before_turn: gets the round's number, from 1, and the variant's name.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    begin = time.perf_counter()
    for number in range(1, most + 1):
        for name, take in turns.items():
            before_turn(number, name)
            times[name].append(take())
        spent = time.perf_counter() - begin
        if number >= least and spent * (number + 1) / number > seconds:
            break
    return times
