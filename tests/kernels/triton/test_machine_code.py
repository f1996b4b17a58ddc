"""Tests that Triton kernels compile for sm_80 and sm_90 without a GPU, to machine code no worse than recorded.

The record, machine_code.json, holds every kernel x configuration x dtype x layout; this test compiles the part that is
compiled by default. `python -m tests.kernels.triton.machine_code --full --write` writes it after an intended change.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import summary

ROOT = Path(__file__).resolve().parents[3]
MOST_STACK = (
    64  # bytes per thread: what ptxas puts aside for a few values; a tile that does not fit takes kilobytes
)
# dynamic shared memory that a block may ask for (CUDA C++ Programming Guide, compute capabilities 8.0 and 9.0)
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed: nothing to compile with", allow_module_level=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "tests.kernels.triton.machine_code"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    summary.count("machine codes of Triton kernels, compiled ahead of time", len(found["kernels"]))
    return found


@pytest.mark.proof
def test_every_kernel_fits_the_chips(built: dict[str, Any]) -> None:
    assert built["kernels"]
    for label, needs in built["kernels"].items():
        limit = SHARED_LIMIT[label.split()[-1]]
        assert needs["shared"] <= limit, f"{label}: {needs['shared']} bytes of shared memory, of {limit}"
        assert needs["stack"] <= MOST_STACK, f"{label}: {needs['stack']} bytes of stack: registers spill"


def test_no_configuration_spills_more_than_a_few_registers() -> None:
    from tests.kernels.triton.machine_code import read_table  # imports Triton

    worst = {label: needs["stack"] for label, needs in read_table()[1].items() if needs["stack"] > MOST_STACK}
    assert not worst, f"take these out of their space: {worst}"


@pytest.mark.proof
def test_products_run_on_tensor_cores(built: dict[str, Any]) -> None:
    missing = [label for label, needs in built["kernels"].items() if needs["tensor_cores"] < 0]
    assert not missing, f"products without mma instructions: {missing}"


@pytest.mark.proof
def test_no_worse_than_recorded(built: dict[str, Any]) -> None:
    from tests.kernels.triton.machine_code import TABLE, read_table  # imports Triton

    version, recorded = read_table()
    unknown = built["kernels"].keys() - recorded.keys()
    assert not unknown, (
        f"not in {TABLE.name}: {sorted(unknown)}; run `python -m tests.kernels.triton.machine_code --full --write`"
    )
    if built["triton"] != version:
        pytest.skip(f"recorded with Triton {version}; another compiler, other registers")
    worse = [
        f"{label}: {name} {needs[name]}, recorded {recorded[label][name]}"
        for label, needs in built["kernels"].items()
        for name in ("registers", "stack", "shared")
        if needs[name] > recorded[label][name]
    ]
    assert not worse, "\n".join(worse)
