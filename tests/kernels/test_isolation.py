"""Tests items in a process of their own: one that ends it costs only itself, and a killed parent leaves no child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from segnext_kernels import isolation

CHILD = """
import os, signal, sys, time
from segnext_kernels import isolation
DO = {
    "fine": lambda: {"answer": 42},
    "fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "raise": lambda: 1 / 0,
    "hang": lambda: time.sleep(600),
}
isolation.report((item, DO[item.split()[0]]) for item in sys.argv[1:])
"""
COMMAND = [sys.executable, "-c", CHILD]


def test_what_ends_a_process_costs_one_item() -> None:
    items = ["fine 1", "fault", "fine 2", "raise", "hang", "fine 3"]
    logged: list[str] = []
    found = dict(isolation.outcomes(COMMAND, items, seconds=2, log=logged.append))
    assert list(found) == items
    assert [found[item] for item in items if item.startswith("fine")] == 3 * [{"answer": 42}]
    assert found["fault"] == isolation.Ended("ended its process (SIGSEGV)")
    assert "exit status 1: ZeroDivisionError: division by zero" in found["raise"].reason
    assert found["hang"].reason == "did not come to an end"
    assert any("ZeroDivisionError" in text for text in logged)


def test_at_the_deadline_nothing_is_blamed() -> None:
    found = isolation.outcomes(COMMAND, ["fine", "hang", "fine 2"], seconds=60, deadline=time.monotonic() + 8)
    assert dict(found) == {"fine": {"answer": 42}}


def test_a_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    child = f"""
import os, pathlib, time
from segnext_kernels import isolation
def hang():
    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))
    time.sleep(600)
isolation.report([("hang", hang)])
"""
    parent = f"""
import sys
from segnext_kernels import isolation
list(isolation.outcomes([sys.executable, "-c", {child!r}], ["hang"], seconds=600))
"""
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=isolation.ROOT)
    while not mark.exists() or not mark.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pid, limit = int(mark.read_text()), time.monotonic() + 10
    while _is_alive(pid):
        assert time.monotonic() < limit, "the child lives on"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a child that has ended is listed until somebody waits for it
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
