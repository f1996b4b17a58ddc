"""Collects tests of what is particular to a Triton kernel, in a session of tests/kernels/triton/test_interpreter.py.

Other sessions collect nothing here: kernels are interpreted for a whole session, or not at all.
"""

from __future__ import annotations

from tests.kernels.triton import interpreter

collect_ignore_glob = [] if interpreter.ON else ["test_*.py"]
if interpreter.ON:
    interpreter.prepare()
