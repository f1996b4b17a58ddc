"""Tests the CPU kernels by every instruction set of this machine; one and several threads give the same bits.

The build for float64 belongs to no instruction set, and is run once.
"""

from __future__ import annotations

import pytest
import torch

from oracle.gradients import random_grad
from segnext_kernels import native
from tests.contract.cases import DIFFERENTIABLE, Case, assert_bitwise, over
from tests.contract.test_values import assert_right, assert_right_gradients

pytestmark = pytest.mark.skipif(native._C is None, reason="the compiled library is missing")
DTYPES = ("fp32", "bf16")


def _is_native(case: Case) -> bool:
    return case.backend == "cpu"


@pytest.mark.usefixtures("instruction_set", "threads")
@over(dtypes=DTYPES, where=_is_native)
def test_forward(case: Case) -> None:
    assert_forward(case)


@pytest.mark.usefixtures("threads")
@over(DIFFERENTIABLE, dtypes=("fp64",), where=_is_native)
def test_forward_in_float64(case: Case) -> None:
    assert_forward(case)


def assert_forward(case: Case) -> None:
    args = case.args()
    torch.set_num_threads(1)
    out = case.run(*args)
    assert_right(case, out, args)
    torch.set_num_threads(3)
    assert_bitwise(case.run(*args), out, "with three threads")


@pytest.mark.usefixtures("instruction_set", "threads")
@over(DIFFERENTIABLE, dtypes=DTYPES, backward=True, where=_is_native)
def test_backward(case: Case) -> None:
    assert_backward(case)


@pytest.mark.usefixtures("threads")
@over(DIFFERENTIABLE, dtypes=("fp64",), backward=True, where=_is_native)
def test_backward_in_float64(case: Case) -> None:
    assert_backward(case)


def assert_backward(case: Case) -> None:
    args = case.args()
    grad = random_grad(case.run(*args))
    torch.set_num_threads(1)
    grads = case.backward(args, grad)
    assert_right_gradients(case, grads, args, grad)
    torch.set_num_threads(3)
    assert_bitwise(case.backward(args, grad), grads, "with three threads")


def test_a_wanted_instruction_set_is_obeyed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = native.instruction_set.__wrapped__  # without the cache
    monkeypatch.setenv("SEGNEXT_CPU_ISA", native.built_sets()[0])
    assert choose() == native.INSTRUCTION_SETS.index(native.built_sets()[0])
    other = "avx2" if "neon" in native.built_sets() else "neon"
    monkeypatch.setenv("SEGNEXT_CPU_ISA", other)
    with pytest.raises(
        ValueError, match=f"SEGNEXT_CPU_ISA: {other} is not built here or not on this machine"
    ):
        choose()
    monkeypatch.setenv("SEGNEXT_CPU_ISA", "sse9")
    with pytest.raises(
        ValueError, match=f"SEGNEXT_CPU_ISA must be one of {', '.join(native.INSTRUCTION_SETS)}, got 'sse9'"
    ):
        choose()
