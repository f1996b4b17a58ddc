"""Measures how long a call takes: by the wall clock on a CPU, by the device's own events on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from segnext.measure import timing
from segnext.measure.timing import Run

MIN_ROUNDS, MAX_ROUNDS = 5, 100
CAPTURED = 10  # calls per graph, because a launch from Python takes longer than most kernels run
GPU_CALL = 0.5e-3  # seconds that a timed stretch on a GPU should last; its events resolve half a microsecond


class Clock:
    """Times calls on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.without_graph: dict[str, str] = {}

    def seconds(self, run: Run, calls: int = 1) -> float:
        """Return the mean of ``calls`` calls in a row; on a GPU, from the first one's start to the last one's end."""
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

    def in_graphs(self, runs: Mapping[str, Run], seconds: float) -> dict[str, list[float]]:
        """Time as `interleaved` does, but the device alone: each variant is captured in a CUDA graph of several calls.

        A variant that cannot be captured is called as it is and named in `without_graph`. If its kernels are short, its
        time then includes Python's.
        """
        replays, calls = {}, {}
        for name, run in runs.items():
            try:
                replays[name], calls[name] = captured(run, self.device), CAPTURED
            except Exception as error:
                self.without_graph[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
                replays[name], calls[name] = run, 1
        times = self.interleaved(replays, seconds)
        return {name: [s / calls[name] for s in values] for name, values in times.items()}

    def interleaved(self, runs: Mapping[str, Run], seconds: float) -> dict[str, list[float]]:
        """Return the seconds of each variant in each round; every variant has one turn per round.

        A turn is one warm-up call, then the timed calls. On a GPU, as many calls as take half a millisecond are timed
        back to back: this times the device if it is busy throughout, and Python if the device waits for Python.

        Args:
            runs: the variants; each has run before, so that nothing is left to compile.
            seconds: time for all rounds.
        """
        turns = {name: partial(self._turn, run, self._calls(run)) for name, run in runs.items()}
        return timing.interleaved(turns, seconds, least=MIN_ROUNDS, most=MAX_ROUNDS)

    def _calls(self, run: Run) -> int:
        """Return how many calls one timed stretch needs to be long enough for this clock."""
        if self.device.type != "cuda":
            return 1
        return max(1, round(GPU_CALL / statistics.median(self.seconds(run) for _ in range(3))))

    def _turn(self, run: Run, calls: int) -> float:
        run()
        return self.seconds(run, calls)


def captured(run: Run, device: torch.device, calls: int = CAPTURED) -> Run:
    """Return a function that replays a CUDA graph of ``calls`` calls, of which the last one's result it returns.

    On a CPU it makes these calls.
    """
    if device.type != "cuda":

        def repeat() -> Any:
            return [run() for _ in range(calls)][-1]

        return repeat
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compile, choose kernels, learn the sizes
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            result = run()

    def replay() -> Any:
        graph.replay()
        return result

    return replay
