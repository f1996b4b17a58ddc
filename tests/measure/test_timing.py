"""Variants take turns in every round; there are as many rounds as the time allows."""

import time

import pytest

from segnext.measure import timing


def test_every_round_gives_every_variant_its_turn():
    calls: list[str] = []
    turns = {name: timing.turn(lambda name=name: calls.append(name)) for name in ("a", "b")}
    seen: list[tuple[int, str]] = []
    times = timing.interleaved(
        turns, 0, least=2, most=9, before_turn=lambda number, name: seen.append((number, name))
    )
    assert calls == ["a", "a", "b", "b"] * 2  # the first of two calls warms up
    assert seen == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_only_the_second_call_is_timed():
    waits = iter([0.05, 0.0])
    assert timing.turn(lambda: time.sleep(next(waits)))() < 0.04
    waits = iter([0.05])
    assert timing.turn(lambda: time.sleep(next(waits)), warm_up=False)() >= 0.05


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 3), (0.18, 4), (10, 6)])
def test_rounds_fill_the_time_between_least_and_most(monkeypatch, seconds, rounds):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run() -> None:
        now[0] += 0.02  # a turn of two calls takes 0.04 s

    times = timing.interleaved({"a": timing.turn(run)}, seconds, least=3, most=6)
    assert times == {"a": [pytest.approx(0.02)] * rounds}
