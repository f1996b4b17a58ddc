"""Tests that every .cu file compiles alone for sm_80, sm_90 and compute_120, without spills or more registers."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracle import nvcc
from tests import summary
from tests.kernels.cuda import machine_code

AGAIN = "look why, or write the table again: python -m tests.kernels.cuda.machine_code"


@pytest.mark.proof
@pytest.mark.skipif(nvcc.NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("stem", machine_code.SOURCES)
def test_kernels_take_no_more_than_the_table_says(stem: str, tmp_path: Path) -> None:
    kernels = machine_code.compile_alone(machine_code.SOURCES[stem], tmp_path)
    for name, by_sm in kernels.items():
        for sm, kernel in by_sm.items():
            assert kernel.spilled == 0, f"{name}, {sm}: {kernel.spilled} bytes of spills and stack"
    summary.count(
        "machine codes of CUDA kernels without spills", sum(len(by_sm) for by_sm in kernels.values())
    )
    release, files = machine_code.read_table()
    known = files.get(stem, {})
    assert set(kernels) == set(known), f"other kernels than in machine_code.json; {AGAIN}"
    if release != nvcc.release():
        pytest.skip(f"no spills; the table's registers are those of nvcc {release}")
    for name, by_sm in kernels.items():
        for sm, kernel in by_sm.items():
            before = known[name][sm]
            assert kernel.registers <= before.registers and kernel.shared <= before.shared, (
                f"{name}, {sm}: {kernel.registers} registers and {kernel.shared} bytes of static shared memory"
                f" after {before.registers} and {before.shared}; {AGAIN}"
            )
