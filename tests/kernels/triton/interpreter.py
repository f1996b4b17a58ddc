"""Prepares Triton's interpreter for tests: mends what differs from the hardware, chooses the cases it can afford."""

from __future__ import annotations

import functools
import inspect
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch

from segnext_kernels.triton import launch
from tests.contract.cases import Case, tensors


def _missing() -> str | None:
    """Say why no kernel can be interpreted here; None if it can."""
    reason = launch.missing()
    if reason is None and _number(version("triton")) < (3, 9) and _number(np.__version__) >= (2, 4):
        # seen with 3.6
        return "its interpreter before 3.9 takes an array for an index, which NumPy 2.4 refuses"
    return reason


def _number(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))


needs_interpreter = pytest.mark.skipif(_missing() is not None, reason=f"Triton: {_missing()}")
ON = launch.interpreted() and launch.missing() is None
# The interpreter takes some 20 microseconds per operation of a program, so a call on inputs of this cost takes 0.1 to 1
# second. No branch needs larger ones. The cost is elements, plus an eighth of the FLOPs, plus 120 per pixel for the ops
# that start a program per pixel.
MOST_COST = 10_600
# These tests run on all samples; other tests that a kernel can break run only on the first. Tests of reruns are left
# out, since the interpreter always gives the same bits.
OVER_ALL_SAMPLES = ("test_forward_is_the_definition", "test_backward_is_the_definitions_gradient")
ON_THE_FIRST = (
    "test_strided_views",
    "test_backward_of_strided_views",
    "test_non_finite_input_comes_out_as_by_the_definition",
    "test_nan_comes_back_in_the_gradient",
    "test_gradients_own_their_memory",
)
VIEWS = ("_poisoned", "_expanded")
# float32 shows wrong indices, and a forward in a 16-bit type shows where values are rounded; the first sample runs in
# all dtypes
DTYPES = {OVER_ALL_SAMPLES[0]: (torch.float32, torch.bfloat16), OVER_ALL_SAMPLES[1]: (torch.float32,)}


def affords(item: pytest.Item) -> bool:
    """Return whether a contract test is run in the interpreter."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    case, name = parameters.get("case"), item.originalname  # type: ignore[attr-defined]
    if not isinstance(case, Case) or case.backend != "triton":
        return False
    args = case.args()
    x = tensors(args)[0]
    pixels = x.numel() // x.shape[1] if x.shape[1] else 0
    programs = pixels if case.spec.program_per_pixel else 0
    is_cheap = x.numel() + case.spec.flops(args) / 8 + 120 * programs <= MOST_COST
    is_first = case.sample is case.spec.samples[0]
    if name in OVER_ALL_SAMPLES:
        if is_first:
            return case.dtype == torch.float32 or (is_cheap and case.layout == torch.channels_last)
        return is_cheap and case.layout == torch.channels_last and case.dtype in DTYPES[name]
    is_plain = (case.dtype, case.layout) == (torch.float32, torch.channels_last)
    variant = parameters.get("view") or parameters.get("value")
    is_kept = variant is None or variant is torch.nan or getattr(variant, "__name__", "") in VIEWS
    return (
        name in ON_THE_FIRST and is_first and is_plain and is_kept and (is_cheap or name == ON_THE_FIRST[0])
    )


@functools.cache  # two folders of tests ask for it
def prepare() -> None:
    """Mend three things in the interpreter: bfloat16's rounding, its products, and the time of device functions."""
    from triton.runtime import interpreter

    _round_as_the_hardware(interpreter)
    _multiply_bfloat16(interpreter)
    if hasattr(interpreter, "_LangPatchScope"):
        _patch_once_a_launch(interpreter)


def _patch_once_a_launch(interpreter: Any) -> None:
    """Wrap the language's functions once per module and launch.

    The interpreter wraps them again at each call of a function by a kernel, wrapper around wrapper, so that time grows
    with the square of the calls.
    """
    patch, language = interpreter._patch_lang, interpreter.tl
    scopes: list[Any] = []
    patched: set[str] = set()

    class Launch:
        def restore(self) -> None:
            while scopes:
                scopes.pop().restore()
            patched.clear()

    def patch_once(function: Any) -> Launch:
        values = [value for value in function.__globals__.values() if inspect.ismodule(value)]
        names = {value.__name__ for value in values if value in (language, language.core)}
        if not names <= patched:
            patched.update(names)
            scopes.append(patch(function))
        return Launch()

    interpreter._patch_lang = patch_once


def _round_as_the_hardware(interpreter: Any) -> None:
    """Round to the nearest bfloat16 as the hardware's `cvt.rn` does; the interpreter truncates float32."""
    convert = interpreter._convert_float
    bfloat16, float32 = interpreter.tl.bfloat16, interpreter.tl.float32

    def faithful(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) == (bfloat16, float32):
            return (np.ascontiguousarray(data).astype(np.uint32) << 16).view(np.float32)
        if (source, target) == (float32, bfloat16):
            bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return np.where(np.isnan(bits.view(np.float32)), 0x7FC0, rounded).astype(np.uint16)
        return convert(data, source, target, rounding)

    assert list(inspect.signature(convert).parameters)[1:3] == ["input_dtype", "output_dtype"]
    interpreter._convert_float = faithful


def _multiply_bfloat16(interpreter: Any) -> None:
    """Multiply bfloat16 by value, in float32; the interpreter multiplies the bits."""
    multiply, bfloat16, float32 = (
        interpreter.InterpreterBuilder.create_dot,
        interpreter.tl.bfloat16,
        interpreter.tl.float32,
    )

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        return multiply(self, widened(a), widened(b), d, *options)

    interpreter.InterpreterBuilder.create_dot = create_dot
