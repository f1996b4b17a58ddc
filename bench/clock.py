"""How long a call takes: by the wall on a CPU, by the device's own events on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Run = Callable[[], Any]
MIN_ROUNDS, MAX_ROUNDS = 5, 100
CAPTURED = 10  # calls in a graph: a launch from Python takes longer than most kernels run
GPU_CALL = 0.5e-3  # seconds that a timed stretch of a GPU should last: its events resolve half a microsecond


class Clock:
    """Times calls on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.without_graph: dict[str, str] = {}

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

    def in_graphs(self, runs: Mapping[str, Run], seconds: float) -> dict[str, list[float]]:
        """As `interleaved`, of the device alone: each variant is captured in a CUDA graph of several calls.

        A variant that cannot be captured is called as it is, and named in `without_graph`; Python's time is then in
        its own where its kernels are short.
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


def captured(run: Run, device: torch.device) -> Run:
    """Replays a CUDA graph of `CAPTURED` calls; on a CPU it makes these calls."""
    if device.type != "cuda":

        def repeat() -> None:
            for _ in range(CAPTURED):
                run()

        return repeat
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, chooses, learns the sizes
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(CAPTURED):
            run()
    return graph.replay
