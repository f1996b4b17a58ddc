"""Offers tests of kernels the instruction sets of this machine, and the emulator of CUDA."""

from __future__ import annotations

import pytest

from segnext_kernels import native
from tests.cuda_emulator.plugin import emulator, pytest_pyfunc_call

__all__ = ["emulator", "instruction_set", "pytest_pyfunc_call"]


@pytest.fixture(params=native.built_sets())
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use each instruction set that this machine has."""
    if native._C is None or request.param not in native.runnable_sets():
        pytest.skip(f"this machine has no {request.param}")
    index = native.INSTRUCTION_SETS.index(request.param)
    monkeypatch.setattr(native, "instruction_set", lambda: index)
