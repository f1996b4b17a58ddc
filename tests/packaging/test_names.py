"""Tests that the library builds in a folder of any name, and that a build which fails does not pass for success."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import segnext_kernels
from tests.packaging.test_build import python

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "segnext_kernels/_C.abi3.so"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def build(folder: Path, broken: bool = False) -> dict[str, object]:
    """Build a library of one op for this machine from sources in ``folder``; return its record."""
    for name in ("common", "cpu", "ops/channel_norm"):
        shutil.copytree(ROOT / "csrc" / name, folder / "csrc" / name)
    csrc = ("module.cpp", "bind.h", "python_module.h", "sources.py", "compilation.py")
    for name in ("setup.py", "segnext_kernels/VERSION", *(f"csrc/{name}" for name in csrc)):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    if broken:
        (folder / "csrc/ops/channel_norm/channel_norm_cpu.cpp").write_text("#error no such instruction\n")
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", "out"]
    environment = {name: value for name, value in os.environ.items() if name != "CXX"} | {
        "SEGNEXT_BUILD": "native",
        "CXXFLAGS": "-O0",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "out/segnext_kernels/_build.json").read_text())


@pytest.mark.parametrize("name", ["my projects (1)", "it's $HOME & co; 50 %"])
def test_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    record = build(tmp_path / name)
    assert "cpu" not in record["skipped"], record  # type: ignore[operator]
    assert record["failed"] == []
    assert (tmp_path / name / "out" / LIBRARY).exists()


def test_a_failed_build_is_recorded_and_warned_of_once(tmp_path: Path) -> None:
    record = build(tmp_path / "broken", broken=True)
    assert record["failed"] == ["cpu"]
    assert "no such instruction" in record["skipped"]["cpu"]  # type: ignore[index]
    site = tmp_path / "site"
    shutil.copytree(
        Path(segnext_kernels.__file__).parent,
        site / "segnext_kernels",
        ignore=shutil.ignore_patterns("_C*", "__pycache__"),
    )
    (site / "segnext_kernels/_build.json").write_text(json.dumps(record))
    code = (
        "import warnings, torch, segnext_kernels as k\n"
        "x, w = torch.zeros(1, 4, 3, 3), torch.zeros(4, 1, 3, 3)\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    k.dwconv_gelu(x, w), k.dwconv_gelu(x, w)\n"
        "(one,) = [str(w.message) for w in said if 'segnext' in str(w.message)]\n"
        "print(one)"
    )
    said = python(code, site, cwd=tmp_path)
    assert "the compiled library could not be built" in said
    assert "no such instruction" in said and "\n" not in said
