"""Runs the CPU kernels for Arm under QEMU, cross-compiled, on the contract's inputs.

Python stays on this machine. Its calls go to a small program of the other machine, which holds the kernels and their
bindings (remote/server.cpp).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracle.sources import bindings
from tests import summary
from tests.cuda_emulator.build import locked

ROOT = Path(__file__).resolve().parents[3]
SERVER = Path(__file__).with_name("remote")
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
        reason=f"{COMPILER} or {EMULATOR} is not installed",
    ),
]
# The server takes the library's place, and the record of its build that of the installed library.
RUN = """
import sys
folder, command = sys.argv[1], sys.argv[2].split()
sys.path.insert(0, folder)
from tests.kernels.cpu.remote.library import Library
sys.modules["segnext_kernels._C"] = Library(command)
from segnext_kernels import native
assert native.__file__.startswith(folder) and native.missing("cpu") is None, native.missing("cpu")
print("chosen:", native.INSTRUCTION_SETS[native.instruction_set()])
import pytest
sys.exit(pytest.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def build() -> Iterator[Path]:
    """Build library and server by the cross compiler; the objects stay for later sessions."""
    folder = ROOT / "build" / "qemu"
    with locked(folder):
        _cross_compile(folder)
        yield folder


def _cross_compile(folder: Path) -> None:
    package = folder / "lib" / "segnext_kernels"
    shutil.rmtree(package, ignore_errors=True)
    built = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
    shutil.copytree(ROOT / "segnext_kernels", package, ignore=built)
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={package.parent}"]
    command.append(f"--build-temp={folder / 'temp'}")
    said = _run(*command, CXX=COMPILER, SEGNEXT_BUILD="cpu")
    assert "warning:" not in said, said[-3000:]
    objects = [path for path in (folder / "temp" / "csrc").glob("*.o") if path.name != "bindings.o"]
    sources = [SERVER / "server.cpp", bindings(folder, ROOT / "csrc" / "module.cpp")]
    includes = [f"-I{SERVER / 'include'}", f"-I{ROOT / 'csrc'}"]
    version = (ROOT / "segnext_kernels" / "VERSION").read_text().strip()
    macros = ["-DSEGNEXT_WITH_CPU", "-DSEGNEXT_ARM", "-DSEGNEXT_FALLBACK=neon"]
    macros.append(f'-DSEGNEXT_VERSION="{version}"')
    options = ["-std=c++17", "-O1", "-static", "-fopenmp", *includes, *macros]
    _run(COMPILER, *options, *map(str, sources), *map(str, objects), "-o", str(folder / "server"))


def _run(*command: str, **changed: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | changed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("machine", "instruction_set", "cases"),
    [
        pytest.param("cortex-a72", "neon", "[neon- or fp64 or wanted", id="neon"),
        pytest.param("max", "neonbf16", "[neonbf16- or wanted", id="neonbf16"),
    ],
)
def test_contract_inputs_under_qemu(build: Path, machine: str, instruction_set: str, cases: str) -> None:
    """The best instruction set of each machine is chosen and right; one and three threads give the same bits."""
    said = _pytest(build, machine, "tests/kernels/cpu/test_instruction_sets.py", "-k", cases)
    assert f"chosen: {instruction_set}\n" in said
    passed = _passed(said)
    assert passed > 500, said[-3000:]
    summary.count(f"cases of CPU kernels under QEMU: {instruction_set}", passed)


def test_deployed_model_under_qemu(build: Path) -> None:
    """The layers around the ops, whose weights are packed once, agree with the model too."""
    said = _pytest(build, "max", "tests/deployment/test_model.py", "-k", "fp32-neon] or bf16-neonbf16]")
    assert _passed(said) == 2, said[-3000:]


def _pytest(build: Path, machine: str, *tests: str) -> str:
    """Run tests by a machine's kernels; return what is printed."""
    server = f"{EMULATOR} -cpu {machine} {build / 'server'}"
    command = [sys.executable, "-c", RUN, str(build / "lib"), server, "-q", "-p", "no:cacheprovider", *tests]
    return _run(*command, PYTHONPATH=str(ROOT))


def _passed(said: str) -> int:
    found = re.search(r"(\d+) passed", said)
    return int(found[1]) if found else 0
