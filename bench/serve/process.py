"""A service as a process of its own, and the memory that it takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.machine import ROOT

_START = 120.0  # seconds until a service must be ready


@dataclass(frozen=True)
class Served:
    """A service that runs.

    Attributes:
        process: its process.
        url: where it listens.
    """

    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        """Return the number of its port."""
        return int(self.url.rpartition(":")[2])

    def memory(self) -> dict[str, int]:
        """Return its resident memory in bytes: "now", and "peak" since the start or `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = {
            name: re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
            for name, field in (("now", "VmRSS"), ("peak", "VmHWM"))
        }
        return {name: 1024 * int(match[1]) for name, match in found.items() if match}

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def command(*options: object) -> list[str]:
    """Return the command line of a service."""
    return [sys.executable, "-m", "segnext", "serve", "--device", "cpu", *map(str, options)]


@contextmanager
def serving(threads: int, *options: object) -> Iterator[Served]:
    """Run a service at a free port until the block ends, where it must end with status 0."""
    log = subprocess.DEVNULL
    words = command("--port", 0, "--threads", threads, *options)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        served = Served(process, _address(process.stderr.readline()))
        # Nobody reads its log any more; a full pipe would stop it.
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=log)
        _wait_until_ready(served)
        yield served
        process.terminate()
        if process.wait(60) != 0:
            raise RuntimeError(f"serve: the service must end with status 0, got {process.returncode}")
        drain.wait(10)
    finally:
        process.kill()
        process.wait()


def _address(line: str) -> str:
    found = re.search(r" at (http://\S+);", line)
    if not found:
        raise RuntimeError(f"serve: the service must say where it listens, got {line.strip()!r}")
    return found[1]


def _wait_until_ready(served: Served) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end and served.process.poll() is None:
        try:
            urllib.request.urlopen(f"{served.url}/readyz").close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise RuntimeError(f"serve: the service must be ready within {_START:g} s, and was not")


def run_client(module: str, *words: Sequence[str] | object) -> str:
    """Run a module as a client in a process of its own, with one thread; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
