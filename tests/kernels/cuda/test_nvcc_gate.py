"""Every .cu file compiles alone for sm_80 and sm_90 (and compute_120), without spills, and grows no registers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import summary
from tests.kernels.cuda import nvcc_gate

AGAIN = "look why, or write the table again: python -m tests.kernels.cuda.nvcc_gate"


@pytest.mark.skipif(nvcc_gate.NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("stem", nvcc_gate.SOURCES)
def test_kernels_take_no_more_than_the_table_says(stem: str, tmp_path: Path) -> None:
    kernels = nvcc_gate.compile_alone(nvcc_gate.SOURCES[stem], tmp_path)
    for name, by_sm in kernels.items():
        for sm, kernel in by_sm.items():
            assert kernel.spilled == 0, f"{name}, {sm}: {kernel.spilled} bytes of spills and stack"
    summary.count(
        "machine codes of CUDA kernels without spills", sum(len(by_sm) for by_sm in kernels.values())
    )
    release, files = nvcc_gate.read_table()
    known = files.get(stem, {})
    assert set(kernels) == set(known), f"other kernels than in nvcc_gate.json; {AGAIN}"
    if release != nvcc_gate.release():
        pytest.skip(f"no spills; the table's registers are those of nvcc {release}")
    for name, by_sm in kernels.items():
        for sm, kernel in by_sm.items():
            before = known[name][sm]
            assert kernel.registers <= before.registers and kernel.shared <= before.shared, (
                f"{name}, {sm}: {kernel.registers} registers and {kernel.shared} bytes of static shared memory"
                f" after {before.registers} and {before.shared}; {AGAIN}"
            )
