"""How long a call takes: by the wall on a CPU, by the device's own events on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Run = Callable[[], Any]
MIN_ROUNDS, MAX_ROUNDS = 5, 100
GPU_CALL = 0.5e-3  # seconds that a timed stretch of a GPU should last: its events resolve half a microsecond


class Clock:
    """Times calls on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, run: Run, calls: int = 1) -> float:
        """Of one call, the mean of ``calls`` in a row; on a GPU from the first one's start to the last one's end."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(calls):
                run()
            return (time.perf_counter() - start) / calls
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / calls

    def interleaved(self, runs: Mapping[str, Run], seconds: float) -> dict[str, list[float]]:
        """Seconds of each variant in each round; every round gives every variant its turn.

        A turn is a call that warms up and then the timed ones: on a GPU as many as take half a millisecond, back to
        back, so that what is timed is the device where it is busy and Python where the device waits for it.

        Args:
            runs: the variants, each called before, so that nothing is compiled any more.
            seconds: time for all rounds.
        """
        first = {name: statistics.median(self.seconds(run) for _ in range(3)) for name, run in runs.items()}
        is_gpu = self.device.type == "cuda"
        calls = {name: max(1, round(GPU_CALL / s)) if is_gpu else 1 for name, s in first.items()}
        one_round = sum(s * (calls[name] + 1) for name, s in first.items())
        rounds = min(max(int(seconds / max(one_round, 1e-6)), MIN_ROUNDS), MAX_ROUNDS)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                run()
                times[name].append(self.seconds(run, calls[name]))
        return times
