"""Measures what a call of an op costs on a small input, and where the time goes: `python -m bench.small_calls [OP]`.

A call checks its arguments, passes PyTorch's dispatcher, chooses a kernel and runs it. On large inputs only the kernel
counts. Here each op gets its first sample, an input so small that the rest counts too: one thread, float32,
channels_last, no gradient. The times are the shortest of many rounds, since everything that disturbs a call makes it
longer. They are written to bench/results/<machine>/small_calls/.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import machine, report
from bench.results import FOLDER, path_of
from oracle.accuracy import assert_output
from oracle.inputs import in_layout
from segnext.measure.timing import interleaved
from segnext_kernels import backend
from segnext_kernels.spec import Spec, all_specs

CALLS = 100  # per turn, so that a turn is much longer than the clock's resolution
ROUNDS = 100


@dataclass(frozen=True)
class Cost:
    """Holds the microseconds of one call.

    Attributes:
        whole: the public function.
        choice: choosing the kernel, a part of it.
        kernel: the kernel with the memory for its result, a part of it.
        eager: the definition in plain PyTorch.
    """

    whole: float
    choice: float
    kernel: float
    eager: float

    @property
    def rest(self) -> float:
        """Return what remains of the whole: the checks of the arguments, and PyTorch's dispatcher."""
        return self.whole - self.choice - self.kernel


def measure(spec: Spec, rounds: int = ROUNDS) -> Cost:
    """Return what a call of one op costs, after its result was compared with the definition's."""
    args = in_layout(spec.samples[0].make(), torch.channels_last)
    assert_output(spec, spec.call(*args), args)
    kernel = backend.select(spec.name, args)
    parts: dict[str, Callable[[], Any]] = {
        "whole": partial(spec.call, *args),
        "choice": partial(backend.select, spec.name, args),
        "kernel": partial(kernel.run, *args),
        "eager": partial(spec.reference, *args),
    }
    turns = {name: partial(_seconds_per_call, part) for name, part in parts.items()}
    times = interleaved(turns, float("inf"), least=rounds, most=rounds)
    return Cost(**{name: 1e6 * min(seconds) for name, seconds in times.items()})


def _seconds_per_call(part: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        part()
    return (time.perf_counter() - start) / CALLS


def table(costs: Mapping[str, Cost], before: Mapping[str, Cost] | None = None) -> str:
    """Return a Markdown table in microseconds; with the costs of another version, the ratio of the calls too."""
    lines = [["op", "one call", "checks, dispatcher", "choice", "kernel", "eager PyTorch"]]
    lines[0] += ["before", "of before"] if before else []
    for name, cost in costs.items():
        numbers = (cost.whole, cost.rest, cost.choice, cost.kernel, cost.eager)
        line = [f"`{name}`", *(f"{number:.1f}" for number in numbers)]
        if before:
            old = before.get(name)
            line += ["-", "-"] if old is None else [f"{old.whole:.1f}", f"{cost.whole / old.whole:.2f}"]
        lines.append(line)
    return report.aligned(lines)


def read(path: Path) -> dict[str, Cost]:
    """Return the costs of a result file."""
    return {name: Cost(**numbers) for name, numbers in json.loads(path.read_text())["costs"].items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.small_calls`."""
    parser = argparse.ArgumentParser(prog="python -m bench.small_calls", description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="OP", help="default: all; then the result is kept")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"of {CALLS} calls each (default: {ROUNDS})"
    )
    parser.add_argument("--before", type=Path, metavar="FILE", help="a result file to compare with")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the machines' results")
    options = parser.parse_args(arguments)
    specs = all_specs()
    if unknown := set(options.ops) - set(specs):
        parser.error(f"no such op: {', '.join(sorted(unknown))}; there are {', '.join(specs)}")
    torch.set_num_threads(1)
    with torch.inference_mode():
        costs = {name: measure(specs[name], options.rounds) for name in options.ops or specs}
    print(table(costs, read(options.before) if options.before else None))
    if not options.ops:
        host = machine.describe()
        path = path_of(host, options.results, "small_calls")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": host, "costs": {name: asdict(cost) for name, cost in costs.items()}}
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(f"\nmicroseconds; wrote {path}")


if __name__ == "__main__":
    main()
