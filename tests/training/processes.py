"""Runs trainings of several processes that talk over gloo, as torchrun would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from segnext.data.config import DataConfig

ROOT = Path(__file__).parents[2]
# Each process may define `train` anew, act on `rank`, and finally calls `run` of tests/training/runs.py.
PREAMBLE = (
    "import os, sys, torch; from pathlib import Path; from signal import *; from tests.training.runs import *; "
    "from segnext.data.config import load_data_config; torch.set_num_threads(1); "
    "data, folder, rank = load_data_config(sys.argv[1]), Path(sys.argv[2]), int(os.environ['RANK'])\n"
)


def yaml_of(data: DataConfig) -> Path:
    """Return the file that describes a synthetic data set."""
    return next(data.splits["train"].images.parents[1].glob("*.yaml"))


def start(count: int, data: DataConfig, folder: Path, script: str) -> list[subprocess.Popen[str]]:
    """Start `count` processes of one run; each executes `script` with `data`, `folder` and `rank`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + script, str(yaml_of(data)), str(folder)],
            cwd=ROOT,
            env={
                **os.environ,
                **shared,
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(count),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]


def ended(processes: list[subprocess.Popen[str]], seconds: float = 180) -> list[tuple[int, str, str]]:
    """Return status, output and errors of each process; one that has not ended after `seconds` is killed."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def run_together(count: int, data: DataConfig, folder: Path, arguments: str) -> list[str]:
    """Call `run(data, folder, {arguments})` in `count` processes; return what each printed."""
    results = ended(start(count, data, folder, f"run(data, folder, {arguments})"))
    assert all(status == 0 for status, _, _ in results), "\n".join(errors for *_, errors in results)
    return [output for _, output, _ in results]
