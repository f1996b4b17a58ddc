"""Runs trainings of several processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from segnext.data.config import DataConfig
from tests import processes
from tests.processes import ended

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
    return processes.start(count, "-c", PREAMBLE + script, yaml_of(data), folder)


def run_together(count: int, data: DataConfig, folder: Path, arguments: str) -> list[str]:
    """Call `run(data, folder, {arguments})` in `count` processes; return what each printed."""
    results = ended(start(count, data, folder, f"run(data, folder, {arguments})"))
    assert all(status == 0 for status, _, _ in results), "\n".join(errors for *_, errors in results)
    return [output for _, output, _ in results]
