"""Tests group_norm_act on the CPU beyond the contract: offsets, chunks and steps, parameters of their own dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from oracle.gradients import random_grad
from oracle.inputs import LAYOUTS
from segnext_kernels import group_norm_act, native, use_backend
from segnext_kernels.ops.group_norm_act.spec import SPEC
from tests.contract.cases import assert_bitwise, strides
from tests.kernels.against_definition import assert_right, run

pytestmark = pytest.mark.skipif(native._C is None, reason="the compiled library is missing")
over_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
# images, channels, groups, height, width: a chunk is at most 256 pixels, a step 1 Mi elements or 64 channels
SIZES = {
    "several-chunks": (2, 32, 8, 23, 31),
    "channels-in-steps": (1, 128, 32, 96, 128),
    "images-in-steps": (3, 20, 4, 160, 200),
    "a-group-of-all": (1, 192, 1, 80, 80),
}


def arguments(
    sizes: tuple[int, ...],
    layout: torch.memory_format,
    offset: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, ...]:
    n, c, groups, h, w = sizes
    x = (torch.randn(n, c, h, w) + offset).to(dtype).contiguous(memory_format=layout)
    residual = torch.randn(n, c, h, w).to(dtype).contiguous(memory_format=layout)
    return x, groups, torch.rand(c) + 0.5, torch.randn(c), 1e-5, residual, "relu"


@over_layouts
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_several_chunks_and_steps(sizes: tuple[int, ...], layout: torch.memory_format) -> None:
    assert_right(SPEC, arguments(sizes, layout))


@over_layouts
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_the_number_of_threads_changes_no_bit(
    sizes: tuple[int, ...], layout: torch.memory_format, threads: None
) -> None:
    args = arguments(sizes, layout)
    torch.set_num_threads(1)
    alone = run(SPEC, args)
    for count in (2, 5):
        torch.set_num_threads(count)
        assert_bitwise(run(SPEC, args), alone, f"with {count} threads")


@over_layouts
@pytest.mark.parametrize("offset", [30.0, -1000.0])
def test_an_offset_costs_no_digits(offset: float, layout: torch.memory_format) -> None:
    """Only the rounding of x itself costs digits; sums of squares would lose all digits at 1000 deviations."""
    args = arguments(SIZES["several-chunks"], layout, offset)
    assert_right(SPEC, args)
    oracle = F.group_norm(args[0].double(), args[1], args[2].double(), args[3].double(), args[4])
    with use_backend("cpu"):
        out = group_norm_act(*args[:5], None, "none")
    assert (out - oracle).abs().max() < 4e-6


def test_one_pixel_far_from_all_others() -> None:
    x, *rest = arguments((1, 16, 2, 24, 24), torch.channels_last)
    x[0, :, 0, 0] = 1e4
    assert_right(SPEC, (x, *rest))


def test_constant_input_is_the_bias() -> None:
    x = torch.full((1, 32, 33, 17), 0.1).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(32)
    with use_backend("cpu"):
        out = group_norm_act(x, 4, torch.ones(32), bias, act="none")
    torch.testing.assert_close(out, bias.view(1, -1, 1, 1).expand_as(out), rtol=0, atol=1e-5)


@over_layouts
def test_float32_parameters_of_bfloat16_activations(layout: torch.memory_format) -> None:
    args = arguments(SIZES["several-chunks"], layout, dtype=torch.bfloat16)
    assert_right(SPEC, args)
    out, (grad_x, grad_weight, grad_bias, grad_residual) = run(SPEC, args)
    assert out.dtype == grad_x.dtype == grad_residual.dtype == torch.bfloat16
    assert grad_weight.dtype == grad_bias.dtype == torch.float32
    # not rounded to bfloat16 on the way
    assert not torch.equal(grad_weight, grad_weight.bfloat16().float())


@over_layouts
def test_nan_stays_in_its_group(layout: torch.memory_format) -> None:
    args = arguments((2, 32, 8, 9, 30), layout)
    args[0][0, 5, 3, 3] = torch.nan
    out, (grad_x, grad_weight, grad_bias, grad_residual) = run(SPEC, args)
    for t in (out, grad_x):
        assert t[0, 4:8].isnan().all()
        assert t[0, :4].isfinite().all() and t[0, 8:].isfinite().all() and t[1].isfinite().all()
    assert grad_weight.isnan().nonzero().flatten().tolist() == [4, 5, 6, 7]
    # the gradient goes through ReLU where its output is NaN, as PyTorch's
    assert grad_bias.isfinite().all()
    assert torch.equal(grad_residual[0, 4:8], random_grad(out)[0, 4:8])


def test_layouts_may_differ_between_arguments() -> None:
    args = arguments(SIZES["several-chunks"], torch.channels_last)
    mixed = (*args[:5], args[5].contiguous(), args[6])
    by_mixed, by_same = run(SPEC, mixed), run(SPEC, args)
    assert strides(by_mixed[0]) == strides(args[0])
    assert_bitwise(by_mixed, by_same)
