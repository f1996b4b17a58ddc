"""Ceilings of a CPU's instructions: measured where they exist, absent where CPU or compiler lack them; their floors."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import report, results, roofline
from bench.roofline import Ceilings
from segnext.measure import machine

SIMPLE = Ceilings(fma=100.0, gemm=80.0, copies=((1 << 20, 50.0),))
INSTRUCTIONS = dict(machine.host())["instructions"].split()


def old_compiler(folder: Path) -> str:
    """Make a compiler that knows no instruction for bfloat16."""
    path = folder / "old-compiler"
    path.write_text('#!/bin/sh\ncase "$*" in *dot_ceiling*|*tile_ceiling*) exit 1;; esac\nexec g++ "$@"\n')
    path.chmod(0o755)
    return str(path)


def knows(flag: str) -> bool:
    """Whether the compiler knows an instruction set."""
    command = ["g++", f"-m{flag}", "-x", "c++", "-fsyntax-only", "/dev/null"]
    return shutil.which("g++") is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_dots_have_a_rate_where_cpu_and_compiler_know_them() -> None:
    rate = roofline.measure_dots()
    assert (rate is not None) == ("avx512_bf16" in INSTRUCTIONS and knows("avx512bf16"))
    assert rate is None or 1 < rate < 1_000_000, "GFLOP/s"


def test_tiles_have_a_rate_only_where_the_cpu_knows_them() -> None:
    rate = roofline.measure_tiles()  # the system may refuse them
    assert rate is None or ("amx_bf16" in INSTRUCTIONS and 1 < rate < 1_000_000)


def test_an_old_compiler_takes_no_other_rate_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if roofline.measure_fma() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("CXX", old_compiler(tmp_path))
    assert roofline.measure_dots() is None and roofline.measure_tiles() is None
    assert roofline.measure_fma() is not None


def test_a_library_that_cannot_be_loaded_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: str) -> None:
        raise OSError("failed to map segment from shared object")

    monkeypatch.setattr(roofline.ctypes, "CDLL", refused)
    assert roofline.measure_fma() is None


@pytest.mark.parametrize(
    ("ceilings", "rate"),
    [
        (SIMPLE, 100.0),
        (Ceilings(100.0, 80.0, (), dots=200.0), 200.0),
        (Ceilings(100.0, 80.0, (), dots=90.0), 100.0),  # as on Intel, where fp32 is faster
        (Ceilings(100.0, 80.0, (), dots=200.0, tiles=1000.0), 1000.0),
        (Ceilings(None, 80.0, (), half_gemm=500.0), 500.0),
    ],
)
def test_bf16_products_run_at_the_highest_rate(ceilings: Ceilings, rate: float) -> None:
    assert ceilings.half_arithmetic == rate
    assert ceilings.floor_ms(1_000_000_000, None, half=True) == pytest.approx(1e3 / rate)


def test_taps_run_at_the_rate_of_fp32_after_the_products() -> None:
    fast = Ceilings(100.0, 80.0, ((1 << 20, 50.0),), dots=200.0)
    million = 1_000_000
    assert fast.floor_ms(400 * million, None, taps=100 * million) == pytest.approx(5.0)
    assert fast.floor_ms(400 * million, None, half=True, taps=100 * million) == pytest.approx(3.0)
    assert fast.floor_ms(0, None, half=True, taps=100 * million) == pytest.approx(1.0)
    assert fast.floor_ms(400 * million, 200 * million, half=True, taps=100 * million) == pytest.approx(4.0)


def test_files_without_the_rates_still_load() -> None:
    old = {"fma": 223.0, "gemm": 162.0, "copies": [[1 << 20, 118.0]], "half_gemm": None}
    assert results.ceilings_of(old) == Ceilings(223.0, 162.0, ((1 << 20, 118.0),))
    del old["half_gemm"]  # the oldest files
    assert results.ceilings_of(old) == Ceilings(223.0, 162.0, ((1 << 20, 118.0),))
    new = Ceilings(223.0, 162.0, ((1 << 20, 118.0),), dots=440.0, tiles=2250.0)
    assert results.ceilings_of(json.loads(json.dumps(vars(new)))) == new


def test_rates_are_told_where_they_were_measured() -> None:
    assert report.measured_ceilings(SIMPLE) == "FMA 100 GFLOP/s, GEMM 80 GFLOP/s fp32; copy 50 GB/s at 1 MiB"
    words = report.measured_ceilings(Ceilings(100.0, 80.0, (), dots=200.0, tiles=1000.0))
    assert "GEMM 80 GFLOP/s fp32, vdpbf16ps 200 GFLOP/s, AMX bf16 tiles 1000 GFLOP/s" in words
