"""Runs the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, on the contract's inputs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segnext_kernels import native
from tests import summary
from tests.cuda_emulator.build import locked

pytestmark = pytest.mark.proof
ROOT = Path(__file__).resolve().parents[3]
FLAGS = (
    "-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    " -DSEGNEXT_SOFTWARE_TILES"
)
# This machine's widest vectors; the tiles of AMX are made of AVX512-BF16's in software.
RUNNABLE = native.runnable_sets() if native._C is not None else ()
BEST = next((name for name in reversed(RUNNABLE) if name != "amx"), "generic")
HAS_TILES = BEST == "avx512bf16"
# Of the contract: the float32 forms, and the tiles of AMX in software.
CHOSEN = f"({BEST} or generic) and fp32 or fp64" + " or amx and bf16" * HAS_TILES
# The sanitised library takes the place of the installed one before segnext_kernels looks for it.
RUN = """
import importlib.util, sys, torch, pytest
spec = importlib.util.spec_from_file_location("segnext_kernels._C", sys.argv[1])
sys.modules["segnext_kernels._C"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["segnext_kernels._C"])
sys.exit(pytest.main(sys.argv[2:]))
"""


def _runtime(name: str) -> str | None:
    if shutil.which("g++") is None:
        return None
    path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return path if Path(path).is_absolute() else None


@pytest.fixture(scope="module")
def source() -> Iterator[Path]:
    """Copy what is built, so that it can be broken; later sessions reuse the objects of earlier builds."""
    folder = ROOT / "build" / "sanitised" / "source"
    with locked(folder.parent):
        _synchronise(folder)
        yield folder


def _synchronise(folder: Path) -> None:
    """Make ``folder`` the checkout's sources, and leave alone what has not changed: its objects stay valid."""
    names = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "segnext_kernels/VERSION")
    files = [path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*") if path.suffix != ".pyc"]
    wanted = {*(file for file in files if (ROOT / file).is_file()), *map(Path, names)}
    for file in wanted:
        content, copy = (ROOT / file).read_bytes(), folder / file
        if not copy.exists() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    for copy in (folder / "csrc").rglob("*"):
        if copy.is_file() and copy.suffix != ".pyc" and copy.relative_to(folder) not in wanted:
            copy.unlink()


def _build(source: Path) -> Path:
    sets = f"generic {BEST}{' amx' * HAS_TILES}" if platform.machine() == "x86_64" else BEST
    environment = {**os.environ, "CXX": "g++", "CXXFLAGS": FLAGS, "SEGNEXT_BUILD": "cpu"}
    environment["SEGNEXT_INSTRUCTION_SETS"] = sets
    library = source.parent / "lib"
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={library}"]
    command.append(f"--build-temp={source.parent / 'temp'}")
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((library / "segnext_kernels").glob("_C*.so"))


def _run(library: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "LD_PRELOAD": str(_runtime("libasan.so")),
        # torch and Python never free some of their memory; the kernels free theirs before they return
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "2",
    }
    # -s: a sanitizer aborts the process, and a captured report would be lost with it
    command = [sys.executable, "-c", RUN, str(library), "-q", "-x", "-s", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(_runtime("libasan.so") is None, reason="g++ with AddressSanitizer is not installed")
def test_contract_inputs_under_sanitizers(source: Path) -> None:
    library = _build(source)
    for least, tests in (
        (
            500,
            ("tests/kernels/cpu/test_instruction_sets.py", "-k", CHOSEN),
        ),
        *([(30, ("tests/kernels/cpu/test_matmul_precision.py",))] if HAS_TILES else []),
        (2, ("tests/deployment/test_model.py", "-k", f"test_every_instruction_set and ({BEST} or generic)")),
    ):
        done = _run(library, *tests)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        passed = re.search(r"(\d+) passed", done.stdout)
        assert passed and int(passed[1]) >= least, done.stdout[-3000:]
        summary.count("cases of CPU kernels under AddressSanitizer and UBSan", int(passed[1]))


@pytest.mark.skipif(_runtime("libasan.so") is None, reason="g++ with AddressSanitizer is not installed")
def test_sanitizers_see_a_row_read_past_its_end(source: Path) -> None:
    """The machinery itself works: rows without room for the pixels of zeros at both ends are reported."""
    header = source / "csrc" / "ops" / "dwconv_gelu" / "moving_rows.h"  # which one op includes
    text, right = header.read_text(), "return (width + 2) * kWidth;"
    assert right in text
    header.write_text(text.replace(right, "return width * kWidth;"))
    try:
        library = _build(source)
    finally:
        header.write_text(text)  # is newer than the broken objects: the next build compiles them again
    done = _run(
        library,
        "tests/kernels/cpu/test_instruction_sets.py",
        "-k",
        "(generic or neon) and fp32 and dwconv_gelu",
    )
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr, done.stdout[-3000:]
