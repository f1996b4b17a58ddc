"""Tests that every .cu file compiles alone for sm_80 and sm_90, without spills or more registers.

What the built library holds is not compiled again, if it is of today's sources and by this nvcc: its machine code is
read instead. One architecture is always compiled.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oracle import nvcc
from oracle.sources import digest
from tests import summary
from tests.kernels.cuda import machine_code

AGAIN = "look why, or write the table again: python -m tests.kernels.cuda.machine_code"


@pytest.fixture(scope="module")
def built() -> dict[str, dict[str, machine_code.Kernel]]:
    return machine_code.in_library()


@pytest.mark.proof
@pytest.mark.skipif(nvcc.NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("stem", machine_code.SOURCES)
def test_kernels_take_no_more_than_the_table_says(
    stem: str, built: dict[str, dict[str, machine_code.Kernel]], tmp_path: Path
) -> None:
    in_library = {sm for by_sm in built.values() for sm in by_sm}
    missing = [sm for sm in machine_code.MACHINE_CODE if f"sm_{sm}" not in in_library]
    kernels = machine_code.compile_alone(
        machine_code.SOURCES[stem], tmp_path, missing or machine_code.MACHINE_CODE[:1]
    )
    wanted = {f"sm_{sm}" for sm in machine_code.MACHINE_CODE}
    for name, by_sm in kernels.items():
        by_sm |= {sm: kernel for sm, kernel in built.get(name, {}).items() if sm in wanted - by_sm.keys()}
        assert by_sm.keys() == wanted, f"{name} is not in the library"
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


@pytest.mark.skipif(nvcc.NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize(
    "changed", [{"sources": "0"}, {"cuda": None}, {"cuda": {"nvcc": "1.0", "flags": ""}}]
)
def test_a_library_of_another_build_is_not_read(changed: dict[str, object], tmp_path: Path) -> None:
    compiler = {"nvcc": nvcc.release(), "flags": " ".join(machine_code.FLAGS)}
    (tmp_path / "_build.json").write_text(json.dumps({"sources": digest(), "cuda": compiler, **changed}))
    (tmp_path / "_C.abi3.so").write_text("no library")  # cuobjdump would refuse it
    assert machine_code.in_library(tmp_path) == {}
