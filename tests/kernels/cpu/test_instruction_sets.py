"""Tests the CPU kernels by every instruction set of this machine; one and several threads give the same bits.

The build for float64 belongs to no instruction set, and is run once.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

import pytest
import torch

from oracle.gradients import random_grad
from segnext_kernels import gated_pointwise, native, use_backend
from tests.contract.cases import DIFFERENTIABLE, Case, assert_bitwise, over
from tests.contract.test_values import assert_right, assert_right_gradients
from tests.instruction_sets import available

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


@pytest.fixture
def want(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set SEGNEXT_CPU_ISA, which is read once per process otherwise."""

    def forget() -> None:
        for function in (native._wanted_set, native._best_vectors, native._uses_tiles):
            function.cache_clear()

    def want(name: str) -> None:
        monkeypatch.setenv("SEGNEXT_CPU_ISA", name)
        forget()

    yield want
    forget()


@pytest.mark.parametrize("name", native.INSTRUCTION_SETS)
def test_a_wanted_instruction_set_is_obeyed_or_refused(name: str, want: Callable[[str], None]) -> None:
    index = native.INSTRUCTION_SETS.index(name)
    is_here = index in available()
    want(name)
    if not is_here:
        with pytest.raises(ValueError, match=f"^SEGNEXT_CPU_ISA: {name} "):
            native.instruction_set(torch.bfloat16)
        return
    assert native.instruction_set(torch.bfloat16) == index
    assert native.instruction_set(torch.float32) == min(index, native._C.best_instruction_set())


def test_an_unknown_instruction_set_is_refused(want: Callable[[str], None]) -> None:
    want("sse9")
    known = ", ".join(native.INSTRUCTION_SETS)
    with pytest.raises(ValueError, match=f"SEGNEXT_CPU_ISA must be one of {known}, got 'sse9'"):
        native.instruction_set()


@pytest.mark.usefixtures("threads")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere such numbers cost nothing")
def test_subnormal_numbers_are_zero_in_kernels_alone() -> None:
    """They cost a hundred cycles each. The caller's arithmetic stays as it was."""
    torch.set_num_threads(1)
    m = torch.full((1, 16, 4, 4), 1e-30).contiguous(memory_format=torch.channels_last)
    weight = torch.full((16, 16, 1, 1), 1e-10)
    with use_backend("cpu"):
        assert gated_pointwise(m, torch.ones_like(m), weight).eq(0).all()
    assert (m * 1e-10).ne(0).all()
