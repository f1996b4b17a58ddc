"""Offers tests of kernels the instruction sets of this machine, and the emulator of CUDA."""

from __future__ import annotations

import pytest

from segnext_kernels import native
from tests.cuda_emulator.plugin import emulator, pytest_pyfunc_call
from tests.instruction_sets import available, use_instruction_set

__all__ = ["emulator", "instruction_set", "pytest_pyfunc_call"]


@pytest.fixture(params=[native.INSTRUCTION_SETS[index] for index in available()])
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use each instruction set that this machine has."""
    use_instruction_set(native.INSTRUCTION_SETS.index(request.param), monkeypatch)
