"""Runs kernels in a process of its own: a kernel that faults or hangs ends that one, and gets a verdict for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segnext_kernels.self_check.verdicts import PACKAGE, Subject, Verdict

SECONDS = 120  # for one kernel: Triton compiles it, in every form that its inputs ask for
START_SECONDS = 300  # until the first one starts: torch is imported, the device wakes up
POLL = 0.02
CHILD = (sys.executable, "-m", "segnext_kernels.self_check")


class NotChecked(RuntimeError):
    """The check itself did not run; says nothing of any kernel."""


def verdicts_of(
    device: str,
    subjects: Sequence[Subject],
    command: Sequence[str] = CHILD,
    environment: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
) -> Iterator[tuple[Subject, Verdict]]:
    """The verdict on each kernel, as soon as it is known.

    Args:
        device: such as "cuda:0".
        command: starts the child; it gets the device, the results' file and the kernels as arguments.
        environment: of the child; default: this process's.
        seconds: that one kernel may take.

    Raises:
        NotChecked: the child does not start, or ends before its first kernel.
    """
    left = list(subjects)
    with tempfile.TemporaryDirectory(prefix="segnext-self-check-") as folder:
        while left:
            child = _Child(Path(folder), command, environment or os.environ, device, left)
            running = None
            try:
                for text, line in child.lines(seconds):
                    running = Subject.of(text)
                    if line is not None:
                        left.remove(running)
                        yield running, Verdict(**line)
                        running = None
            finally:
                ended = child.end()
            if running is not None:
                left.remove(running)
                yield running, Verdict(False, ended)
            elif left:
                raise NotChecked(ended)


class _Child:
    """One process, and what it has written so far."""

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        device: str,
        subjects: Sequence[Subject],
    ) -> None:
        self.results, self.output, self.late = folder / "results", folder / "output", False
        self.results.write_text("")
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), environment.get("PYTHONPATH")]))
        arguments = [device, str(self.results), *map(str, subjects)]
        try:
            with self.output.open("w") as output:
                self.process = subprocess.Popen(
                    [*command, *arguments],
                    env={**environment, "PYTHONPATH": path, "SEGNEXT_SELF_CHECK": "0"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise NotChecked(f"no process starts ({error})") from error

    def lines(self, seconds: float) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """A kernel's name with None when it begins, and with its verdict when it is done."""
        limit, since = float(START_SECONDS), time.monotonic()
        with self.results.open() as file:
            unfinished = ""
            while True:
                is_running = self.process.poll() is None
                unfinished += file.read()  # after poll(): what a child wrote last is not missed
                *lines, unfinished = unfinished.split("\n")
                for line in lines:
                    text, verdict = json.loads(line)
                    limit, since = seconds, time.monotonic()
                    yield text, verdict
                if not is_running:
                    return
                if time.monotonic() - since > limit:
                    self.late = True
                    return
                time.sleep(POLL)

    def end(self) -> str:
        """Stop it and say how it ended."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.late:
            return "did not come to an end"
        status = self.process.returncode
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        text = self.output.read_text(errors="replace").strip()
        # a sanitizer's or a driver's own sentence before Python's last line
        told = [line for line in text.splitlines() if "ERROR" in line or "error" in line.lower()]
        last = (told or text.splitlines() or [""])[-1 if not told else 0].strip()
        return f"ended its process ({how}{': ' if last else ''}{last[:200]})"
