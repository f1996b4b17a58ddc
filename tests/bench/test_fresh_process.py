"""Tests peak memory and the first call, on a toy whose memory and time are known."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from bench import fresh_process
from bench.peers import Run

KEPT, PASSING = 16, 64  # MiB


def make(first_seconds: float) -> Run:
    before = torch.ones(256 << 18)  # 256 MiB that must not count, though they are freed
    del before
    kept: list[torch.Tensor] = []

    def run() -> torch.Tensor:
        if not kept:
            time.sleep(first_seconds)
            kept.append(torch.ones(KEPT << 18))
        return torch.ones(PASSING << 18).sum()

    return run


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_peak_is_what_the_calls_add() -> None:
    result = fresh_process.measure(make, 0.3)
    assert result.peak_mib == pytest.approx(KEPT + PASSING, abs=8)
    assert result.first_ms > 300 and result.first_ms > 2 * result.warm_ms
    assert set(result.as_json()) == {"peak_mib", "first_ms", "warm_ms"}


def fails() -> Run:
    raise ValueError("no such variant")


def test_an_error_of_the_process_comes_back() -> None:
    with pytest.raises(ValueError, match="no such variant"):
        fresh_process.measure(fails)


def hangs() -> Run:
    time.sleep(600)
    raise AssertionError("it was not killed")


def test_a_process_that_hangs_is_killed() -> None:
    start = time.perf_counter()
    with pytest.raises(TimeoutError, match="took longer than 1 s"):
        fresh_process.measure(hangs, timeout=1)
    assert time.perf_counter() - start < 60
