"""Times our code against its peers: the gate first, then all of them in turns, in one process.

In each round every variant has its turn. Short ones run twice and the second call is timed: caches and
threads are then in the state that the variant itself leaves, whoever ran before it. Ours is timed by
pytest-benchmark, the others by the same clock in its setup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.peers import PEERS, Build, Peer, Run
from bench.results import OURS, Row, Timing
from segnext.measure.runtimes import Unavailable

# Raises AssertionError where the output of the variant of this name is wrong.
Gate = Callable[[str, Any], None]
MIN_ROUNDS, MAX_ROUNDS = 7, 200
# Seconds of a round from which fewer of them have to do.
LONG_MINIMUM, MIN_ROUNDS_LONG = 4.0, 3
# Seconds of a round from which the first call is timed: what the variant before left behind shows less, and it costs.
LONG_ROUND = 1.5


class Comparison:
    """One test's comparison; made by the ``compare`` fixture.

    Args:
        benchmark: pytest-benchmark's fixture.
        seconds: time for the rounds of one comparison.
        rows: where the result is added.
        without_number: where it is said which peer has none, and why.
        left_out: peers that are not wanted, each with the reason.
    """

    def __init__(
        self,
        benchmark: BenchmarkFixture,
        seconds: float,
        rows: list[Row],
        without_number: dict[str, str],
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.benchmark, self.seconds = benchmark, seconds
        self.rows, self.without_number, self.left_out = rows, without_number, left_out or {}

    def __call__(
        self,
        table: str,
        name: str,
        ours: Run,
        build: Build,
        gate: Gate,
        *,
        peers: Mapping[str, Peer] = PEERS,
        required: Collection[str] = tuple(PEERS),
        beside: Mapping[str, Run] | None = None,
        inference: bool = True,
        flops: int | None = None,
        bytes_moved: int | None = None,
        **notes: Any,
    ) -> Row | None:
        """Gate and time ``ours`` and every peer's version of ``build``.

        Args:
            table, name, flops, bytes_moved, notes: see `Row`.
            ours: our variant.
            build: the same workload in plain PyTorch, see `bench.peers`.
            gate: gets each variant's name and first output.
            required: peers whose failure means that the workload itself is wrong; another one that fails, or
                is not there, only gets no number.
            beside: more to be timed in the same rounds, ungated and no peers.
            inference: run everything in inference mode.

        Returns:
            The row; None under --benchmark-disable, where only the gate runs.

        Raises:
            AssertionError: ours or a required peer failed the gate; nothing was timed.
            Unavailable: there is no peer to compare with.
        """
        with torch.inference_mode(inference):
            gate(OURS, ours())
            others: dict[str, Run] = {}
            for peer, make in peers.items():
                try:
                    if peer in self.left_out:
                        raise Unavailable(self.left_out[peer])
                    with torch.inference_mode(False):
                        run = make(build)
                    gate(peer, run())
                except (Unavailable, AssertionError) as reason:
                    if peer in required:
                        raise
                    self.without_number[f"{name}, {table}: {peer}"] = str(reason).partition("\n")[0]
                else:
                    others[peer] = run
            if not others:
                raise Unavailable(f"{name}: no peer passed")
            others |= beside or {}
            for run in (beside or {}).values():
                run()
            seconds = self._interleave(ours, others)
        if not self.benchmark.stats:
            return None
        timings = {variant: Timing.of(times) for variant, times in seconds.items()}
        extra = {variant: timings.pop(variant) for variant in beside or {}}
        row = Row(table, name, timings, extra, flops, bytes_moved, notes)
        self.rows.append(row)
        self.benchmark.group = table
        self.benchmark.extra_info.update(
            {f"{peer} ms": t.median for peer, t in timings.items() if peer != OURS}
        )
        return row

    def _interleave(self, ours: Run, others: Mapping[str, Run]) -> dict[str, list[float]]:
        """Seconds of each variant in each round."""
        start = time.perf_counter()
        for run in (ours, *others.values()):
            run()
        one_round = time.perf_counter() - start
        warm_up = one_round < LONG_ROUND
        rounds = int(self.seconds / (one_round * (2 if warm_up else 1)))
        least = MIN_ROUNDS if one_round < LONG_MINIMUM else MIN_ROUNDS_LONG
        seconds: dict[str, list[float]] = {variant: [] for variant in others}

        def all_but_ours() -> None:
            for variant, run in others.items():
                if warm_up:
                    run()
                begin = time.perf_counter()
                run()
                seconds[variant].append(time.perf_counter() - begin)
            if warm_up:
                ours()

        self.benchmark.pedantic(ours, setup=all_but_ours, rounds=min(max(rounds, least), MAX_ROUNDS))
        timed = list(self.benchmark.stats.stats.data) if self.benchmark.stats else []
        return {OURS: timed, **seconds}
