"""A process of several that hangs is noticed by the others; a pause of all is none."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from segnext.heartbeat import Heartbeat
from tests.processes import ROOT, ended, start

# Each process says that it is there, and waits as for a message that never comes.
SCRIPT = """
import sys, time
import torch.distributed as dist
from segnext.heartbeat import Heartbeat

rank, port = int(sys.argv[1]), int(sys.argv[2])
store = dist.TCPStore("localhost", port, is_master=rank == 0, wait_for_workers=False)
print(store.port, flush=True)
input()
Heartbeat("train", "go on with --resume", store, rank, 2, beat=0.2, silence=4, grace=0.5)
print("alive", flush=True)
time.sleep(120)
"""
LOST = (
    "segnext: train: all 2 processes must be at work, got no sign of life from process {} for 4 s; "
    "go on with --resume\n"
)


@pytest.fixture
def pair() -> Iterator[list[subprocess.Popen[str]]]:
    """Yield two processes that watch each other; the first one keeps the store."""
    processes: list[subprocess.Popen[str]] = []
    port = 0
    try:
        for rank in range(2):
            command = [sys.executable, "-c", SCRIPT, str(rank), str(port)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            processes.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
            port = int(processes[rank].stdout.readline())
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        assert all(process.stdout.readline() == "alive\n" for process in processes)
        yield processes
    finally:
        for process in processes:
            process.kill()  # a stopped process too
            process.communicate()


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_process_ends_the_other(pair, stopped):
    other = pair[1 - stopped]
    time.sleep(1)
    assert other.poll() is None
    pair[stopped].send_signal(signal.SIGSTOP)
    _, errors = other.communicate(timeout=30)
    assert other.returncode == 1 and errors == LOST.format(stopped)


def test_a_pause_of_all_ends_none(pair):
    time.sleep(1)
    for process in pair:
        process.send_signal(signal.SIGSTOP)
    time.sleep(6)
    for process in pair:
        process.send_signal(signal.SIGCONT)
    time.sleep(2)
    assert [process.poll() for process in pair] == [None, None]


# The first process waits in a message; the second one does not come.
JOINED = """
import time
import torch
from segnext.ranks import joined_ranks

with joined_ranks("train", torch.device("cpu"), "go on with --resume") as (ranks, _):
    print("joined", flush=True)
    if ranks.is_first:
        ranks.largest(1)
    time.sleep(300)
"""


@pytest.mark.proof
def test_a_stopped_process_is_named_within_a_minute():
    first, second = start(2, "-c", JOINED)
    try:
        assert first.stdout.readline() == second.stdout.readline() == "joined\n"
        time.sleep(5)
        second.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        ((status, _, errors),) = ended([first], 70)
        assert time.monotonic() - began < 60
        assert status == 1 and "no sign of life from process 1 for 45 s; go on with --resume" in errors
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


@pytest.fixture
def hearts() -> Iterator[list[Heartbeat]]:
    """Yield the heartbeats of two processes, both in this one."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    client = dist.TCPStore("localhost", store.port, is_master=False, wait_for_workers=False)
    found = [
        Heartbeat("val", "begin again", own, rank, 2, beat=0.05, silence=0.5, grace=60)
        for rank, own in enumerate((store, client))
    ]
    yield found
    for heart in found:
        heart.stop_watching()
        heart.end(in_order=True)


def test_a_process_that_leaves_in_order_is_not_missed(hearts):
    time.sleep(1)
    hearts[1].end(in_order=True)
    time.sleep(1)
    assert hearts[0].lost is None


def test_a_process_that_fails_is_missed(hearts):
    hearts[1].end(in_order=False)
    deadline = time.monotonic() + 10
    while hearts[0].lost is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert hearts[0].lost == (
        "val: all 2 processes must be at work, got no sign of life from process 1 for 0.5 s; begin again"
    )
