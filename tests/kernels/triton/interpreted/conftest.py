"""Tests of what is particular to a Triton kernel; run by tests/kernels/triton/test_interpreter.py.

Elsewhere there is nothing to collect: the kernels are interpreted or they are not, for a whole session.
"""

from __future__ import annotations

from tests.kernels.triton import interpreter

collect_ignore_glob = [] if interpreter.ON else ["test_*.py"]
if interpreter.ON:
    interpreter.prepare()
