"""Tests gated_pointwise on the CPU beyond the contract: several tiles, chunks and panels, mixed layouts, wide sums."""

from __future__ import annotations

import pytest
import torch

from oracle.inputs import LAYOUTS
from segnext_kernels import gated_pointwise, native
from segnext_kernels.ops.gated_pointwise.spec import SPEC
from tests.contract.cases import assert_bitwise, strides
from tests.kernels.against_definition import assert_right, run

pytestmark = [
    pytest.mark.skipif(native._C is None, reason="the compiled library is missing"),
    pytest.mark.usefixtures("instruction_set"),
]
over_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
over_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
# images, Ci, Co, height, width: a tile is 128 pixels, a panel up to 64 output channels, a sum 128 products
SIZES = {
    "images-shorter-than-a-tile": (5, 48, 32, 7, 9),
    "several-chunks": (3, 33, 47, 40, 50),
    "several-panels-and-long-sums": (1, 515, 200, 8, 17),
    "many-output-channels": (1, 16, 530, 12, 11),
}


def arguments(
    sizes: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    n, ci, co, h, w = sizes
    weight, bias = torch.randn(co, ci, 1, 1) * max(ci, 1) ** -0.5, torch.randn(co)
    m, u = (torch.randn(n, c, h, w).to(dtype).contiguous(memory_format=layout) for c in (ci, co))
    return m, u, weight.to(dtype), bias.to(dtype)


@over_layouts
@over_dtypes
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_several_tiles_and_panels(
    sizes: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    assert_right(SPEC, arguments(sizes, layout, dtype))


@pytest.mark.parametrize("pixels", [(2, 6, 13), (3, 40, 50)], ids=["tiles", "chunks"])
def test_a_bias_gradient_is_no_long_chain_of_additions(pixels: tuple[int, int, int]) -> None:
    n, h, w = pixels
    m, u, weight, bias = arguments((n, 13, 80, h, w), torch.channels_last)
    u, grad = u.abs() + 1, torch.rand(n, 80, h, w).add(1).contiguous(memory_format=torch.channels_last)
    (bias_grad,) = torch.autograd.grad(gated_pointwise(m, u, weight, bias.requires_grad_()), bias, grad)
    exact = (grad * u).double().sum((0, 2, 3))
    assert ((bias_grad - exact) / exact).abs().max() < 1.5 * torch.finfo(torch.float32).eps


@over_layouts
@over_dtypes
def test_the_number_of_threads_changes_no_bit(
    dtype: torch.dtype, layout: torch.memory_format, threads: None
) -> None:
    for sizes in SIZES.values():
        args = arguments(sizes, layout, dtype)
        torch.set_num_threads(1)
        alone = run(SPEC, args)
        for count in (2, 5):
            torch.set_num_threads(count)
            assert_bitwise(run(SPEC, args), alone, f"with {count} threads")


@over_dtypes
def test_layouts_may_differ_between_arguments(dtype: torch.dtype) -> None:
    args = arguments(SIZES["several-chunks"], torch.channels_last, dtype)
    m, u, weight, bias = args
    mixed = (m.contiguous(), u, weight.movedim(0, 1).contiguous().movedim(0, 1), bias)
    by_mixed, by_same = run(SPEC, mixed), run(SPEC, args)
    assert strides(by_mixed[0]) == strides(u)
    assert strides(by_mixed[1][0]) == strides(mixed[0])
    assert_bitwise(by_mixed, by_same)


@over_layouts
def test_nan_stays_in_its_pixel(layout: torch.memory_format) -> None:
    """Rows and columns of padding must not spread NaN: zero times NaN is NaN."""
    for dtype in (torch.float32, torch.bfloat16):
        args = arguments((2, 33, 47, 11, 13), layout, dtype)
        args[0][1, 32, 10, 12] = torch.nan
        out, (grad_m, grad_u, grad_weight, grad_bias) = run(SPEC, args)
        for t in (out, grad_u):
            assert t[1, :, 10, 12].isnan().all()
            assert int(t.isnan().sum()) == 47
        assert grad_m.isfinite().all() and grad_bias.isfinite().all()
        assert grad_weight.isnan().flatten(1).sum(0).tolist() == [0] * 32 + [47]
