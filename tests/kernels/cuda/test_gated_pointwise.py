"""Tests gated_pointwise's CUDA kernels on the emulator: mixed layouts, views, splits of the pixels, NaN, traffic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.inputs import GPU_DTYPES, LAYOUTS
from segnext_kernels.ops.gated_pointwise.spec import SPEC
from tests.contract.cases import assert_bitwise
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import assert_backward, assert_forward, assert_right, kernel, poisoned_view

over_dtypes = pytest.mark.parametrize("dtype", GPU_DTYPES.values(), ids=GPU_DTYPES)
over_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def arguments(
    sizes: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.channels_last,
) -> tuple[Any, ...]:
    """Make arguments for sizes in the order images, Ci, Co, height, width."""
    return SPEC.samples[0].make(
        dtype, layout=layout, **dict(zip(("n", "ci", "co", "h", "w"), sizes, strict=True))
    )


@over_dtypes
@pytest.mark.parametrize("sizes", [(0, 8, 8, 3, 2), (2, 8, 8, 0, 3), (2, 0, 8, 2, 3)], ids=str)
def test_empty(emulator: Emulator, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    n, ci, co, h, w = sizes
    m, u, weight, bias = arguments((n, max(ci, 1), co, h, w), dtype)
    args = m[:, :ci], u, weight[:, :ci], bias
    assert_forward(emulator, SPEC, args)
    assert_backward(emulator, SPEC, (torch.randn_like(u), *args))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_layouts_may_differ_between_arguments(emulator: Emulator, dtype: torch.dtype) -> None:
    args = arguments((2, 24, 40, 6, 8), dtype)
    m, u, weight, bias = args
    turned = weight.movedim(0, 1).contiguous().movedim(0, 1)
    grad = torch.randn_like(u)
    for mixed in ((m.contiguous(), u, turned, bias), (m, u.contiguous(), weight, bias)):
        assert_right(emulator, SPEC, mixed, grad)
    expected = kernel("gated_pointwise")(*args)
    assert_bitwise(kernel("gated_pointwise")(m.contiguous(), u, turned, bias), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_views(emulator: Emulator, dtype: torch.dtype) -> None:
    """Channels come from wider tensors (aligned or not), rows and columns are left out, gradients have stride zero."""
    m, u, weight, bias = arguments((2, 48, 40, 6, 10), dtype)
    for cut in (slice(8, 28), slice(3, 24)):
        co = u[:, cut].shape[1]
        assert_right(emulator, SPEC, (m[:, cut], u[:, cut], weight[:co, cut], bias[:co]))
    assert_right(emulator, SPEC, (poisoned_view(m), poisoned_view(u.contiguous()), weight, bias))
    sparse = m[:, :, ::2, ::3], u[:, :, ::2, ::3]
    assert_right(emulator, SPEC, (*sparse, weight, bias))
    assert_right(emulator, SPEC, (m, u, weight, bias), torch.randn(1, 1, 1, 1).to(dtype).expand_as(u))


def test_many_runs_along_the_pixels(emulator: Emulator) -> None:
    """The weights' gradient is a sum over several runs of pixels; images do not divide them and the last is short."""
    emulator.schedule("random", 3)
    args = arguments((3, 8, 8, 21, 23), torch.bfloat16)
    grad = torch.randn_like(args[1])
    for layout in LAYOUTS.values():
        turned = tuple(t.contiguous(memory_format=layout) for t in args[:2]) + args[2:]
        assert_right(emulator, SPEC, turned, grad.contiguous(memory_format=layout))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@over_layouts
def test_nan_stays_in_its_pixel(emulator: Emulator, layout: torch.memory_format, dtype: torch.dtype) -> None:
    """Padding must not spread it: zero times NaN is NaN."""
    args = arguments((2, 9, 11, 3, 5), dtype, layout)
    args[0][1, 8, 2, 4] = torch.nan
    out = kernel("gated_pointwise")(*args)
    grad_m, grad_u, grad_weight, grad_bias = kernel("gated_pointwise_backward")(torch.randn_like(out), *args)
    for t in (out, grad_u):
        assert t[1, :, 2, 4].isnan().all()
        assert int(t.isnan().sum()) == 11
    assert grad_m.isfinite().all() and grad_bias.isfinite().all()
    assert grad_weight.isnan().flatten(1).sum(0).tolist() == [0] * 8 + [11]


def test_accesses_are_whole(emulator: Emulator) -> None:
    """In channels_last every requested sector is used, and shared memory is read almost without conflicts."""
    args = arguments((1, 64, 64, 16, 16), torch.bfloat16)
    with emulator.count() as traffic:
        kernel("gated_pointwise")(*args)
    m, u, weight, _ = args
    once = (m.numel() + u.numel()) * 2
    assert traffic["load_global"]["units"] <= 1.1 * traffic["load_global"]["fewest"]
    assert traffic["store_global"]["units"] == traffic["store_global"]["fewest"] == u.numel() * 2 // 32
    assert traffic["load_global"]["bytes"] <= once + 2 * weight.numel() * 2 + 4 * u.numel()
    for kind in ("load_shared", "store_shared"):
        assert traffic[kind]["units"] <= 1.5 * traffic[kind]["fewest"], (kind, traffic[kind])
