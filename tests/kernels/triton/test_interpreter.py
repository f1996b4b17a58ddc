"""Compares every Triton kernel with its definition in Triton's interpreter, on CPU tensors without a GPU.

This needs sessions of their own, since TRITON_INTERPRET decides when a kernel is imported whether it is interpreted.
Two run at a time, as each uses only one thread. They run the contract suite as far as
`tests.kernels.triton.interpreter` can afford it, and `tests/kernels/triton/interpreted`, which tests what is particular
to a kernel. Each part has a session of its own and a least number of cases, so that none is left out unnoticed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import summary
from tests.kernels.triton.interpreter import needs_interpreter

ROOT = Path(__file__).resolve().parents[3]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
CONTRACT, BACKWARD = "tests/contract/test_values.py", "test_backward_is_the_definition"
# options -> the cases that it has at least; the longest session first
SESSIONS = {
    ("tests/kernels/triton/interpreted",): 90,
    (CONTRACT, "-k", f"not {BACKWARD}"): 200,
    (CONTRACT, "-k", BACKWARD): 50,
}


def run(options: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*PYTEST, *options], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.proof
@needs_interpreter
def test_kernels_in_the_interpreter() -> None:
    with ThreadPoolExecutor(2) as pool:
        sessions = list(pool.map(run, SESSIONS))
    cases = []
    for done, least in zip(sessions, SESSIONS.values(), strict=True):
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        passed = re.search(r"(\d+) passed", done.stdout)
        assert passed and int(passed[1]) >= least, done.stdout[-2000:]
        cases.append(int(passed[1]))
    summary.count("cases of Triton kernels in its interpreter", sum(cases))
