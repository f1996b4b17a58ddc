"""Times our code against its peers in one process: first all of them are checked, then they take turns.

Every variant has one turn per round. Short variants run twice and the second call is timed: caches and threads are then
in the state that the variant itself leaves, whichever variant ran before it. pytest-benchmark times ours, and the same
clock times the others in its setup.
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
from segnext.measure.timing import turn

# It gets a variant's name and output, and raises AssertionError if the output is wrong.
Check = Callable[[str, Any], None]
MIN_ROUNDS, MAX_ROUNDS = 7, 200
# If a round takes this many seconds or more, fewer rounds must suffice.
LONG_MINIMUM, MIN_ROUNDS_LONG = 4.0, 3
# Longer rounds are timed without a warm-up call: the previous variant's cache effects are negligible then, and a second
# call is expensive.
LONG_ROUND = 1.5


class Comparison:
    """Compares variants for one test; the ``compare`` fixture makes it.

    Args:
        benchmark: pytest-benchmark's fixture.
        seconds: time for the rounds of one comparison.
        rows: the result is added here.
        without_number: gets the reason for each peer that has no number.
        left_out: unwanted peers, each with the reason.
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
        check: Check,
        *,
        peers: Mapping[str, Peer] = PEERS,
        required: Collection[str] = tuple(PEERS),
        beside: Mapping[str, Run] | None = None,
        inference: bool = True,
        flops: int | None = None,
        bytes_moved: int | None = None,
        **notes: Any,
    ) -> Row | None:
        """Check and time ``ours`` and every peer's version of ``build``.

        Args:
            table, name, flops, bytes_moved, notes: see `Row`.
            ours: our variant.
            build: the same workload in plain PyTorch, see `bench.peers`.
            check: gets each variant's name and first output.
            required: peers whose failure means that the workload itself is wrong. Another peer that fails or is missing
                just gets no number.
            beside: runs that are timed in the same rounds but not checked; they are no peers.
            inference: run everything in inference mode.

        Returns:
            The row; None under --benchmark-disable, when outputs are only checked.

        Raises:
            AssertionError: the output of ours or of a required peer is wrong; nothing was timed.
            Unavailable: there is no peer to compare with.
        """
        with torch.inference_mode(inference):
            check(OURS, ours())
            others: dict[str, Run] = {}
            for peer, make in peers.items():
                try:
                    if peer in self.left_out:
                        raise Unavailable(self.left_out[peer])
                    with torch.inference_mode(False):
                        run = make(build)
                    check(peer, run())
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
        """Return the seconds of each variant in each round."""
        start = time.perf_counter()
        for run in (ours, *others.values()):
            run()
        one_round = time.perf_counter() - start
        warm_up = one_round < LONG_ROUND
        rounds = int(self.seconds / (one_round * (2 if warm_up else 1)))
        least = MIN_ROUNDS if one_round < LONG_MINIMUM else MIN_ROUNDS_LONG
        seconds: dict[str, list[float]] = {variant: [] for variant in others}
        turns = {variant: turn(run, warm_up=warm_up) for variant, run in others.items()}

        def all_but_ours() -> None:
            for variant, take in turns.items():
                seconds[variant].append(take())
            if warm_up:
                ours()

        self.benchmark.pedantic(ours, setup=all_but_ours, rounds=min(max(rounds, least), MAX_ROUNDS))
        timed = list(self.benchmark.stats.stats.data) if self.benchmark.stats else []
        return {OURS: timed, **seconds}
