"""Measures what shows only in a process of its own: peak memory, and the first call against later ones."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.peers import Run

CALLS = 4  # the first and three warm ones; the second training step is the first with all state in place
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class FreshRun:
    """Holds the numbers of one variant in a process that ran nothing else.

    Attributes:
        peak_mib: how far the resident memory rose above its value before the first call; None if the system does not
            tell.
        first_ms: time of the first call.
        warm_ms: median time of the others.
    """

    peak_mib: float | None
    first_ms: float
    warm_ms: float

    def as_json(self) -> dict[str, Any]:
        """Return the numbers for a row's notes."""
        return asdict(self)


def measure(
    make: Callable[..., Run], *args: Any, calls: int = CALLS, timeout: float | None = None
) -> FreshRun:
    """Start a process, let it make a variant, and measure ``calls`` calls of it.

    Args:
        make: a function of a module, so that the process finds it; its own allocations do not count.
        args: the arguments of ``make``.
        calls: at least two.
        timeout: seconds after which the process is killed; None: it may take as long as it likes.

    Raises:
        TimeoutError: it took longer.
    """
    # spawn: a fork would share this process's memory, and its OpenMP threads would be missing
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        future = pool.submit(_measure, torch.get_num_threads(), make, args, calls)
        try:
            return future.result(timeout)
        except futures.TimeoutError as error:  # before Python 3.11 this is another class than TimeoutError
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise TimeoutError(f"fresh_process: the process took longer than {timeout:g} s") from error


def _measure(threads: int, make: Callable[..., Run], args: tuple[Any, ...], calls: int) -> FreshRun:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run = make(*args)
    before = _reset_peak()
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    peak = None if before is None else (_status("VmHWM") - before) / MEBIBYTE
    return FreshRun(peak, 1e3 * seconds[0], 1e3 * statistics.median(seconds[1:]))


def _reset_peak() -> int | None:
    """Let the system forget the peak so far; return the resident bytes now, None where Linux's /proc is missing."""
    gc.collect()
    try:
        # return freed memory to the system: if it were reused, it would not show as growth
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError):
        return None


def _status(field: str) -> int:
    """Return the bytes of a field of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(match[1]) << 10
