"""Tests group_norm_act's CUDA kernels on the emulator: several passes, mixed layouts, views, NaN and traffic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.gradients import random_grad
from oracle.inputs import LAYOUTS
from segnext_kernels.memory_format import as_format_of
from segnext_kernels.ops.group_norm_act.spec import SPEC
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import assert_forward, assert_right, kernel, poisoned_view

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def arguments(
    sizes: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.channels_last,
    residual: bool = True,
    **others: Any,
) -> tuple[Any, ...]:
    """Make arguments for sizes in the order images, channels, groups, height, width."""
    named = dict(zip(("n", "c", "groups", "h", "w"), sizes, strict=True))
    return SPEC.samples[0].make(dtype, layout=layout, residual=residual, **named, **others)


def test_several_passes_of_a_block(emulator: Emulator) -> None:
    """A thread merges its moments with those of its next elements; rows drift, so that the two differ."""
    x, *rest = arguments((1, 1024, 1, 33, 32), residual=False)
    assert_right(emulator, SPEC, (x + torch.arange(33.0).view(-1, 1), *rest))
    x, *rest = arguments((1, 513, 3, 33, 33), layout=torch.contiguous_format, residual=False)
    assert_forward(emulator, SPEC, (x + torch.arange(33.0).view(-1, 1), *rest))


@layouts
def test_views_and_other_layouts(emulator: Emulator, layout: torch.memory_format) -> None:
    args = arguments((2, 16, 4, 6, 8), torch.bfloat16, layout)
    assert_right(emulator, SPEC, (poisoned_view(args[0]), *args[1:]))
    other = next(value for value in LAYOUTS.values() if value != layout)
    assert_right(emulator, SPEC, (*args[:5], args[5].contiguous(memory_format=other), args[6]))
    shifted = torch.empty(args[0].numel() + 1, dtype=torch.bfloat16)[1:]  # 2 bytes beside a multiple of 16
    x = shifted.as_strided(args[0].shape, args[0].stride()).copy_(args[0])
    assert_right(emulator, SPEC, (x, *args[1:]))


@layouts
def test_nan_stays_in_its_group(emulator: Emulator, layout: torch.memory_format) -> None:
    args = arguments((2, 32, 8, 5, 8), torch.float32, layout)
    args[0][0, 5, 3, 3] = torch.nan
    out = emulator.run(kernel("group_norm_act"), *args)
    assert out[0, 4:8].isnan().all()
    assert out[0, :4].isfinite().all() and out[0, 8:].isfinite().all() and out[1].isfinite().all()
    grad = as_format_of(random_grad(out), out)
    grad_x, grad_weight, grad_bias, grad_residual = emulator.run(
        kernel("group_norm_act_backward"), grad, args[0], out, 8, args[2], 1e-5, "relu", True
    )
    assert grad_weight.isnan().nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert grad_x[0, 4:8].isnan().all() and grad_x[1].isfinite().all() and grad_bias.isfinite().all()
    assert torch.equal(grad_residual[0, 4:8], grad[0, 4:8])


def test_parameters_that_are_views(emulator: Emulator) -> None:
    args = arguments((1, 32, 4, 5, 8), torch.bfloat16, wide_affine=True)
    weight = torch.randn(64)[::2]
    assert_right(emulator, SPEC, (*args[:2], weight, torch.randn(33)[1:], *args[4:]))


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_expanded_views(emulator: Emulator, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """One image for all images, and one parameter for all channels, stored once: their strides are zero."""
    args = arguments((2, 16, 4, 6, 8), dtype, layout)
    assert_right(
        emulator, SPEC, tuple(a[:1].expand_as(a) if isinstance(a, torch.Tensor) else a for a in args)
    )


def test_no_image(emulator: Emulator) -> None:
    args = arguments((0, 16, 4, 6, 8))
    assert emulator.run(kernel("group_norm_act"), *args).shape == (0, 16, 6, 8)
    grads = emulator.run(
        kernel("group_norm_act_backward"), args[0], args[0], args[0], 4, args[2], 1e-5, "relu", True
    )
    assert grads[0].shape == (0, 16, 6, 8) and not grads[1].any() and not grads[2].any()


def test_traffic_is_what_the_header_says(emulator: Emulator) -> None:
    args = arguments((1, 64, 8, 32, 32), torch.bfloat16, residual=False)
    x_sectors = args[0].numel() * 2 // 32
    with emulator.count() as traffic:
        kernel("group_norm_act")(*args)
    # x twice, and the parameters and partial sums
    assert 2 * x_sectors <= traffic["load_global"]["units"] <= 2.4 * x_sectors
    assert traffic["store_global"]["units"] <= 1.1 * x_sectors
    for kind in ("load_shared", "store_shared"):
        assert traffic[kind]["units"] <= 2 * traffic[kind]["fewest"], (kind, traffic[kind])
