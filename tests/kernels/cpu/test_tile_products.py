"""Tests the products on AMX's tile registers, in software on any x86-64 machine, and on the tiles where they are.

tile_products.cpp compares them with sums in double, for all ways in which a matrix fits its tiles.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from segnext_kernels import native
from tests import summary

ROOT = Path(__file__).resolve().parents[3]
SOURCE = Path(__file__).with_name("tile_products.cpp")
FLAGS = (
    "-std=c++17 -O1 -g1 -ffp-contract=fast -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mavx512bf16"
    " -mamx-tile -mamx-bf16 -DSEGNEXT_X86 -DSEGNEXT_ISA=amx -DSEGNEXT_WITHOUT_AVX2 -DSEGNEXT_WITHOUT_AVX512"
)
SOFTWARE = "-DSEGNEXT_SOFTWARE_TILES -fsanitize=address,undefined -fno-sanitize-recover=undefined"
NO_TILES = 77  # the program's exit status

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("g++") is None, reason="needs x86-64 and g++"
)


def _run(
    folder: Path, flags: str, csrc: Path = ROOT / "csrc", compiler: str = "g++"
) -> subprocess.CompletedProcess[str]:
    program = folder / "tile_products"
    command = [
        compiler,
        *FLAGS.split(),
        *flags.split(),
        f"-I{csrc}",
        str(SOURCE),
        str(csrc / "common" / "isa.cpp"),
    ]
    built = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    done = subprocess.run([program], capture_output=True, text=True)
    if done.returncode == NO_TILES:
        pytest.skip(done.stdout.strip())
    return done


def _digest(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    found = re.search(r"(\d+) cases, 0 wrong, digest (\w+)", done.stdout)
    assert found and int(found[1]) > 1000, done.stdout
    summary.count("products on tiles compared with double", int(found[1]))
    return found[2]


def test_software_tiles_under_sanitizers(tmp_path: Path) -> None:
    _digest(_run(tmp_path, SOFTWARE))


@pytest.mark.proof
@pytest.mark.skipif(shutil.which("clang++") is None, reason="clang is not installed")
def test_software_tiles_by_clang(tmp_path: Path) -> None:
    _digest(_run(tmp_path, "-DSEGNEXT_SOFTWARE_TILES", compiler="clang++"))


@pytest.mark.skipif(
    native._C is None or native.reason_against_tiles() is not None, reason="this machine has no AMX"
)
def test_hardware_gives_the_bits_of_software(tmp_path: Path) -> None:
    assert _digest(_run(tmp_path, "")) == _digest(_run(tmp_path, SOFTWARE))


@pytest.mark.proof
@pytest.mark.parametrize(
    ("right", "wrong", "seen_in"),
    [
        pytest.param("int64_t k = 0; k < segment_k;", "int64_t k = kTileDepth; k < segment_k;", "wrong: ",
            id="a block of k dropped"),
        pytest.param("return smaller(row, larger(rows - kTileSide, 0));", "return row;", "AddressSanitizer",
            id="rows beyond the image read"),
        pytest.param("epilogue(m, n + kLanes, load(sum + kLanes))", "epilogue(m, n + kLanes, load(sum))", "wrong: ",
            id="a column tile taken for its neighbour"),
        pytest.param("add(low, highs);", "", "wrong: ", id="the low pieces of pixels left out"),
    ],
)  # fmt: skip
def test_a_broken_kernel_is_seen(right: str, wrong: str, seen_in: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc", ignore=shutil.ignore_patterns("__pycache__"))
    header = tmp_path / "csrc" / "cpu" / "gemm_on_tiles.h"
    text = header.read_text()
    assert text.count(right) == 1
    header.write_text(text.replace(right, wrong))
    done = _run(tmp_path, SOFTWARE, tmp_path / "csrc")
    assert done.returncode not in (0, NO_TILES)
    assert seen_in in done.stdout + done.stderr, (done.stdout + done.stderr)[-3000:]
