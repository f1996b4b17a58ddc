"""Tests how the compiled library reads its arguments: what it refuses, in which words, and what it leaves alone."""

from __future__ import annotations

import gc
import re
import sys
from typing import Any

import pytest
import torch

from segnext_kernels import native

pytestmark = pytest.mark.skipif(native._C is None, reason="needs the compiled library")

ONE = (0, (1,), (1,))


def _call(**changed: Any) -> Any:
    """Call channel_norm_cpu, with some of its arguments replaced."""
    x, weight = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last), torch.ones(4)
    out = torch.empty_like(x)
    arguments = dict(
        dtype=0, x=native.plain(x), weight=native.plain(weight), bias=native.plain(weight), eps=1e-5
    )
    arguments |= dict(out=native.plain(out), isa=native.instruction_set(), threads=1)
    return native._C.channel_norm_cpu(*(arguments | changed).values())


def test_arguments_of_the_right_kinds_are_taken() -> None:
    assert _call() is None
    assert _call(eps=1) is None  # Python's numbers are one kind where a real number is wanted
    x = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    assert _call(x=[x.data_ptr(), list(x.shape), list(x.stride())]) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({"dtype": "0"}, "argument 0 must be an integer in range, got '0'", id="text"),
        pytest.param({"dtype": 0.0}, "argument 0 must be an integer in range, got 0.0", id="float"),
        pytest.param(
            {"isa": 1 << 40}, "argument 6 must be an integer in range, got 1099511627776", id="wide"
        ),
        pytest.param({"isa": 1 << 80}, f"argument 6 must be an integer in range, got {1 << 80}", id="widest"),
        pytest.param({"eps": "1"}, "argument 4 must be a number, got '1'", id="no-number"),
        pytest.param(
            {"x": 0}, r"argument 1 must be None or \(address, sizes, strides\), got 0", id="no-tensor"
        ),
        pytest.param({"x": (0, (1,))}, r"argument 1 must be None or \(address, sizes, strides\)", id="two"),
        pytest.param({"x": (-1, (1,), (1,))}, "argument 1 must be None or", id="negative-address"),
        pytest.param({"x": (0, (1, 1), (1,))}, "argument 1 must be None or", id="fewer-strides"),
        pytest.param({"x": (0, (1,), 1)}, "argument 1 must be None or", id="stride-alone"),
        pytest.param({"x": (0, (1.0,), (1,))}, "argument 1 must be None or", id="float-size"),
        pytest.param({"more": 1}, "the number of arguments must be 8, got 9", id="one-more"),
    ],
)
def test_other_kinds_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^channel_norm_cpu: {message}"):
        _call(**changed)


def test_the_other_errors_of_a_call() -> None:
    with pytest.raises(ValueError, match="^tensor: at most four axes$"):
        _call(x=(0, (1,) * 5, (1,) * 5))
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        native._C.best_instruction_set(isa=1)
    sums = native._C.depthwise_sum_cpu
    with pytest.raises(ValueError, match="too many branches or too few dilations"):
        sums(0, ONE, [ONE], [None], [], [0, 1], 0, ONE, 0, 1)
    gradients = native._C.depthwise_sum_backward_cpu
    with pytest.raises(IndexError):
        gradients(0, ONE, [ONE], [None], [1, 1], [0, 1], 0, ONE, [], 0, 1)
    logits, target = torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 7)
    arguments = (0, native.plain(logits), native.plain(target), False, 255, 0, 0.0, False, 0, 1)
    with pytest.raises(IndexError, match="target must hold class ids below the logits' classes"):
        native._C.upsample_cross_entropy_cpu(*arguments)
    with pytest.raises(TypeError, match="argument 3 must be True or False, got 0"):
        native._C.upsample_cross_entropy_cpu(*arguments[:3], 0, *arguments[4:])


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(TypeError) as error:
        _call(x=list(range(100000)))
    assert len(str(error.value)) < 400


def test_no_call_keeps_a_reference() -> None:
    sizes, text = (2, 4, 3, 3), "no number"
    view = (0, sizes, "wrong")
    gc.collect()  # what earlier tests left holds None and True too
    before = [sys.getrefcount(value) for value in (None, True, sizes, text, view)]
    for _ in range(1000):
        _call()
        for changed in ({"x": view}, {"eps": text}):
            with pytest.raises(TypeError):
                _call(**changed)
    gc.collect()
    after = [sys.getrefcount(value) for value in (None, True, sizes, text, view)]
    assert all(abs(a - b) < 500 for a, b in zip(after, before, strict=True)), (before, after)


def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native._unfit(native._C) == ""
    monkeypatch.setattr(native, "VERSION", "99.0")
    reason = native._unfit(native._C)
    assert re.fullmatch(r"it is of version \S+, segnext_kernels of version 99\.0", reason)
