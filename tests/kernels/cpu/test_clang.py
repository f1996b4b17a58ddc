"""Builds the CPU kernels with clang, with and without OpenMP, and compares them with their definitions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segnext_kernels import native
from tests import summary
from tests.cuda_emulator.build import locked

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(shutil.which("clang++") is None, reason="clang is not installed"),
]
# The package with clang's library is imported before pytest puts the checkout in front of it.
RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from segnext_kernels import native
assert native.__file__.startswith(sys.argv[1]) and native.missing("cpu") is None, native.missing("cpu")
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""
DOCTOR = """
import sys
sys.path.insert(0, sys.argv[1])
from segnext.cli import doctor
print(dict(doctor.backends())["cpu"], dict(doctor.build())["openmp"], sep="\\n")
"""
# Takes Apple's place, whose clang has no OpenMP.
REFUSES_OPENMP = """#!/bin/sh
case " $* " in *" -fopenmp "*) echo "clang: error: unsupported option '-fopenmp'" >&2; exit 1;; esac
exec clang++ "$@"
"""


def _package(name: str, compiler: str) -> Path:
    """Return a folder with the package and a library by this compiler, built for this machine alone.

    The objects stay for later sessions.
    """
    kept = ROOT / "build" / "clang" / name
    with locked(kept):
        package = kept / "lib" / "segnext_kernels"
        shutil.rmtree(package, ignore_errors=True)
        built = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
        shutil.copytree(ROOT / "segnext_kernels", package, ignore=built)
        # a third of -O3's time; the optimiser of clang is not on trial
        environment = {**os.environ, "CXX": compiler, "CXXFLAGS": "-O1", "SEGNEXT_BUILD": "native"}
        command = [sys.executable, "setup.py", "build_ext", f"--build-lib={package.parent}"]
        command.append(f"--build-temp={kept / 'temp'}")
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "warning:" not in done.stdout, done.stdout[-3000:]
    return package.parent


def _child(code: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def _cases(folder: Path) -> int:
    """Run the cases of this machine's best instruction set, each with one and with three threads; return how many."""
    best = native.INSTRUCTION_SETS[native._C.best_instruction_set()] if native._C is not None else "generic"
    cases = ("tests/kernels/cpu/test_instruction_sets.py", "-k", f"[{best}-")
    passed = re.search(r"(\d+) passed", said := _child(RUN, folder, "-q", "-p", "no:cacheprovider", *cases))
    assert passed and int(passed[1]) > 500, said[-3000:]
    return int(passed[1])


def _record(folder: Path) -> dict[str, object]:
    return json.loads((folder / "segnext_kernels" / "_build.json").read_text())


def test_with_openmp() -> None:
    """torch has loaded GCC's runtime: LLVM's comes beside it, and each thread still knows its place in the team."""
    folder = _package("openmp", "clang++")
    assert "clang version" in str(_record(folder)["compiler"])
    if _record(folder)["openmp"] != "used":
        pytest.skip(f"OpenMP was {_record(folder)['openmp']}")
    summary.count("cases of CPU kernels built by clang", _cases(folder))


def test_without_openmp_the_build_goes_on_and_doctor_says_so(tmp_path: Path) -> None:
    compiler = tmp_path / "clang++"
    compiler.write_text(REFUSES_OPENMP)
    compiler.chmod(0o755)
    folder = _package("without-openmp", str(compiler))
    reason = (
        f"left out: {compiler} refuses -fopenmp (clang: error: unsupported option '-fopenmp');"
        " the kernels run on one thread"
    )
    assert _record(folder)["openmp"] == reason
    kernels, build = _child(DOCTOR, folder).splitlines()
    assert kernels.endswith(f"; OpenMP was {reason}") and build == reason
    summary.count("cases of CPU kernels built by clang", _cases(folder))
