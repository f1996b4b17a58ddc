"""Runs `segnext` in a process that is killed at a chosen moment: after a time, or at one of its writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]

# The n-th call of `function` in `os` ends in a signal to the process itself, before or after the call.
_CHILD = """
import os, sys
function, when, number, code = sys.argv[1:5]
calls = 0
original = getattr(os, function)
def call(*arguments, **keywords):
    global calls
    calls += 1
    hit = calls == int(number)
    if hit and when == "before":
        os.kill(os.getpid(), int(code))
    result = original(*arguments, **keywords)
    if hit and when == "after":
        os.kill(os.getpid(), int(code))
    return result
setattr(os, function, call)
sys.argv[:] = ["segnext", *sys.argv[5:]]
import segnext.__main__
if sys.argv[1] == "train":
    import segnext.cli.train
    from tests.training.runs import narrow
    segnext.cli.train._network = lambda *_: narrow()
segnext.__main__.main()
"""


@dataclass(frozen=True)
class Moment:
    """When a process is killed, and how.

    Attributes:
        function: of `os`, at whose call it is killed: "fsync" or "replace" while a file is written.
        when: "before" or "after" the call, or "never".
        number: of the call, counted from 1.
        lines: of the standard output to wait for, if it is killed by time.
        seconds: to wait after these lines; None: it is killed by its call alone.
        signal: SIGKILL, SIGTERM, SIGINT or SIGHUP.
    """

    function: str
    when: str
    number: int
    lines: int
    seconds: float | None
    signal: signal.Signals

    @classmethod
    def random(cls, rng: np.random.Generator, writes: int, lines: int) -> Moment:
        """Draw a moment of a process that writes about `writes` files and prints `lines` lines."""
        code = signal.Signals(
            int(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
        )
        if rng.random() < 0.5:
            function, when = str(rng.choice(["fsync", "replace"])), str(rng.choice(["before", "after"]))
            return cls(function, when, int(rng.integers(1, writes + 1)), 0, None, code)
        # From the first import on; the time is short beside a step, so that the lines decide.
        first = int(rng.integers(0, lines + 1))
        return cls("fsync", "never", 0, first, float(rng.uniform(0, 0.5 if first else 4)), code)


def start(moment: Moment, words: Sequence[object], errors: Path) -> int:
    """Run `segnext` until it ends or is killed; return its status. The standard error goes to a file."""
    arguments = [moment.function, moment.when, moment.number, int(moment.signal), *words]
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", _CHILD, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=stream,
            preexec_fn=_default_signals,
        )
    assert process.stdout is not None
    if moment.seconds is not None:
        for _ in range(moment.lines):
            process.stdout.readline()
        try:
            process.wait(moment.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(moment.signal)
    process.communicate()
    return process.returncode


def _default_signals() -> None:
    """Undo what a shell does to jobs in the background: they ignore SIGINT, and so would Python."""
    for code in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(code, signal.SIG_DFL)
