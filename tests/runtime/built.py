"""Builds the C++ runtime with CMake, for tests of it; the next session uses the objects again."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from segnext_kernels import native
from tests.cuda_emulator.build import locked

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX") or "g++"  # as setup.py: another one may round differently


def missing() -> str | None:
    """Return what this machine lacks to build the runtime; None if it has everything."""
    for program in ("cmake", COMPILER.split()[0]):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    code = "#include <nlohmann/json.hpp>\n"
    command = [*COMPILER.split(), "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True)
    return None if done.returncode == 0 else "nlohmann/json.hpp is not installed (nlohmann-json3-dev)"


def instruction_set() -> str:
    """Return the one of the quick tests: AVX2 where there is one, since AMX takes minutes to compile."""
    known = native.runnable_sets()
    return "avx2" if "avx2" in known else known[-1]


def configured(name: str, **options: str) -> Path:
    """Configure a build in a folder of this name, and return the folder."""
    folder = ROOT / "build" / "runtime" / name
    settings = {"CMAKE_CXX_COMPILER": COMPILER, "CMAKE_BUILD_TYPE": "Release", **options}
    run("cmake", "-S", ROOT, "-B", folder, *(f"-D{key}={value}" for key, value in settings.items()))
    return folder


def build(name: str, **options: str) -> Path:
    """Configure and build, and return the folder of the library and the example."""
    with locked(ROOT / "build" / "runtime" / f"{name}.lock"):
        folder = configured(name, **options)
        run("cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1))
    return folder


def library() -> Path:
    """Build the library of the quick tests, or skip the test with the reason."""
    if (reason := missing() or native.missing("cpu")) is not None:
        pytest.skip(reason)
    return build("quick", SEGNEXT_INSTRUCTION_SETS=instruction_set()) / "libsegnext.so"


def run(*command: str | Path, **environment: str) -> str:
    """Return what a command prints; fail with it if the command fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
