"""Every Triton kernel against its definition, in a session of Triton's interpreter: CPU tensors, no GPU.

A session of its own, since TRITON_INTERPRET decides at a kernel's import what it is. It runs the contract suite as
far as `tests.interpreter` can afford it, and `tests/triton`: what is particular to a kernel.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from segnext_kernels import _triton

ROOT = Path(__file__).resolve().parents[2]
SESSION = [
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "tests/contract/test_values.py",
    "tests/triton",
]


@pytest.mark.skipif(_triton.missing() is not None, reason=f"Triton: {_triton.missing()}")
def test_kernels_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(SESSION, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 50, done.stdout[-2000:]
    print(f"interpreter: {passed[1]} cases")
