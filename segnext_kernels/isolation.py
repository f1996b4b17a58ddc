"""Runs items in a child process; if one faults or hangs, that process ends and the rest continue in a new one.

A GPU kernel with an illegal access destroys its whole process's context, and one that hangs never returns. Code that
may do so runs in a child. The child appends a line of JSON to a file when an item begins and another with its result.
From that file the parent knows which item a dead child was running.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 300.0  # until the first item begins: importing torch and waking up the device take time
POLL = 0.02
ROOT = Path(__file__).resolve().parents[1]  # the folder of these packages: the child imports the same ones
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
RESULTS, PARENT = "SEGNEXT_ISOLATION_RESULTS", "SEGNEXT_ISOLATION_PARENT"


class NotStarted(RuntimeError):
    """The child did not reach its first item, which says nothing about any item."""


@dataclass(frozen=True)
class Ended:
    """Stands for a result: how the item ended its process."""

    reason: str


def outcomes(
    command: Sequence[str],
    items: Sequence[str],
    *,
    seconds: float,
    start_seconds: float = START_SECONDS,
    environment: Mapping[str, str] | None = None,
    deadline: float = float("inf"),
    log: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[str, Any]]:
    """Yield each item with its result, or with `Ended`, as soon as it is known.

    Args:
        command: starts a child; it gets the items as further arguments and calls `report`.
        items: unique names.
        seconds: the time limit per item.
        start_seconds: the time limit until the first item begins.
        environment: of the child; default: this process's.
        deadline: by `time.monotonic`. A child that runs then is killed; its item and the items not begun are not
            returned.
        log: gets the output of a child that did not end well.

    Raises:
        NotStarted: a child ended before its first item.
    """
    left = list(items)
    while left and time.monotonic() < deadline:
        child = _Child(command, environment or os.environ, left)
        running = None
        try:
            for item, result in child.lines(start_seconds, seconds, deadline):
                running = item
                if result is not None:
                    left.remove(item)
                    yield item, result
                    running = None
        finally:
            ended = child.end(log)
        if child.is_out_of_time:
            return
        if running is not None:
            left.remove(running)
            yield running, Ended(ended)
        elif left:
            raise NotStarted(ended)


def report(results: Iterable[tuple[str, Callable[[], Any]]]) -> None:
    """In the child: call each function and tell the parent its result, which must be JSON and not None."""
    if sys.platform == "linux":  # if the parent is killed, no child stays behind on the device
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != int(os.environ[PARENT]):
            sys.exit("the parent died first")
    with open(os.environ[RESULTS], "a") as file:

        def tell(item: str, result: Any) -> None:
            file.write(json.dumps([item, result]) + "\n")
            file.flush()

        for item, function in results:
            tell(item, None)
            tell(item, function())


class _Child:
    """A child process, and what it has written so far."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], items: Sequence[str]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="segnext-")
        self.results, self.output = Path(self.folder.name) / "results", Path(self.folder.name) / "output"
        self.is_late = self.is_out_of_time = False
        self.results.write_text("")
        path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
        try:
            with self.output.open("w") as output:
                self.process = subprocess.Popen(
                    [*command, *items],
                    env={
                        **environment,
                        "PYTHONPATH": path,
                        RESULTS: str(self.results),
                        PARENT: str(os.getpid()),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise NotStarted(f"no process starts ({error})") from error

    def lines(self, start_seconds: float, seconds: float, deadline: float) -> Iterator[tuple[str, Any]]:
        """Yield an item with None when it begins, and with its result when it is done."""
        limit, since = start_seconds, time.monotonic()
        with self.results.open() as file:
            unfinished = ""
            while True:
                is_running = self.process.poll() is None
                unfinished += file.read()  # read after poll(), so that a child's last lines are not missed
                *lines, unfinished = unfinished.split("\n")
                for line in lines:
                    item, result = json.loads(line)
                    limit, since = seconds, time.monotonic()
                    yield item, result
                if not is_running:
                    return
                now = time.monotonic()
                self.is_late, self.is_out_of_time = now - since > limit, now > deadline
                if self.is_late or self.is_out_of_time:
                    return
                time.sleep(POLL)

    def end(self, log: Callable[[str], None]) -> str:
        """Stop the child and describe how it ended."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        text = self.output.read_text(errors="replace").strip()
        self.folder.cleanup()
        status = self.process.returncode
        if status or self.is_late:
            log(text)
        if self.is_late:
            return "did not come to an end"
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"ended its process ({how}{': ' if text else ''}{_telling_line(text)})"


def _telling_line(text: str) -> str:
    """The sentence of a sanitizer or a driver, else the last line, which in Python names the error."""
    lines = text.splitlines() or [""]
    told = [line for line in lines if "==ERROR" in line or "runtime error:" in line]
    return (told or lines[-1:])[0].strip()[:200]
