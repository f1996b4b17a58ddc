"""Tests Triton kernels around products beyond the contract: several tiles, steps, panels, splits and chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.accuracy import assert_output
from segnext_kernels import use_backend
from segnext_kernels.ops.conv_ffn.spec import SPEC as CONV_FFN
from segnext_kernels.ops.gated_pointwise.spec import SPEC as GATED_POINTWISE
from segnext_kernels.ops.msca_block import triton_kernels as msca_block_kernels
from segnext_kernels.ops.msca_block.spec import SPEC as MSCA_BLOCK
from segnext_kernels.ops.nmf2d import reference as nmf2d_reference
from segnext_kernels.ops.nmf2d import triton_products, triton_split
from segnext_kernels.ops.nmf2d.spec import SPEC as NMF2D
from segnext_kernels.ops.nmf2d_projected.spec import SPEC as NMF2D_PROJECTED
from segnext_kernels.triton import launch, pointwise
from segnext_kernels.triton.tuning import config
from tests.kernels.against_definition import assert_right, run

over_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
LAST = torch.channels_last


@over_dtypes
def test_gated_pointwise_in_several_tiles_steps_panels(dtype: torch.dtype) -> None:
    args = GATED_POINTWISE.samples[0].make(dtype, layout=LAST, n=2, ci=70, co=66, h=8, w=9)
    assert_right(GATED_POINTWISE, args, "triton")


@pytest.mark.parametrize("programs", [1, 4, 1000])
def test_weight_gradient_in_any_number_of_splits(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointwise, "PROGRAMS", programs)
    args = GATED_POINTWISE.samples[0].make(n=3, ci=5, co=6, h=9, w=7)
    assert_right(GATED_POINTWISE, args, "triton")


def test_gated_pointwise_of_mixed_layouts() -> None:
    m, u, weight, bias = GATED_POINTWISE.samples[0].make(layout=LAST)
    args = (m.contiguous(), u, weight, bias)
    assert_right(GATED_POINTWISE, args, "triton")
    out, (grad_m, grad_u, *_) = run(GATED_POINTWISE, args, backend="triton")
    assert grad_m.is_contiguous()
    assert out.is_contiguous(memory_format=LAST) and grad_u.is_contiguous(memory_format=LAST)


def test_nan_stays_in_its_pixel() -> None:
    """A tile's padding must not spread NaN: zero times NaN is NaN."""
    args = GATED_POINTWISE.samples[0].make(ci=7, co=9)
    args[0][1, 6, 8, 6] = torch.nan
    out, (grad_m, grad_u, grad_weight, grad_bias) = run(GATED_POINTWISE, args, backend="triton")
    for t in (out, grad_u):
        assert t[1, :, 8, 6].isnan().all() and int(t.isnan().sum()) == 9
    assert grad_m.isfinite().all() and grad_bias.isfinite().all()
    assert grad_weight.isnan().flatten(1).sum(0).tolist() == [0] * 6 + [9]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, (16, 0)), (16, (16, 0)), (20, (16, 16)), (160, (128, 32)), (320, (256, 64)), (512, (512, 0))],
)
def test_two_powers_of_two_hold_all_channels(channels: int, expected: tuple[int, int]) -> None:
    assert msca_block_kernels.halves(channels) == expected


@over_dtypes
def test_conv_ffn_in_several_tiles_steps_panels(dtype: torch.dtype) -> None:
    args = CONV_FFN.samples[0].make(dtype, layout=LAST, n=1, c=72, e=72, co=72, h=9, w=9, residual=True)
    assert_right(CONV_FFN, args, "triton")


@over_dtypes
def test_msca_block_apart(dtype: torch.dtype) -> None:
    """With many channels on few pixels in 16 bits, the last step is two products."""
    assert_right(MSCA_BLOCK, MSCA_BLOCK.samples[0].make(dtype, layout=LAST, n=2, c=200, h=4, w=3), "triton")


over_orders = pytest.mark.parametrize("inner_rows", [False, True], ids=["pixels-inner", "channels-inner"])


@over_orders
def test_nmf2d_in_several_chunks_of_several_tiles(inner_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_products, "MULTIPROCESSORS", 2)  # one chunk of each image takes three tiles
    monkeypatch.setattr(triton_products, "PART_VALUES", 1)  # and sums go over one part at a time
    args = NMF2D.samples[0].make(b=1, d=40, n=150, r=20, steps=1, inner_rows=inner_rows)
    assert triton_products.Cut.of(args[0], 20, triton_products.config(BLOCK_N=32)).tiles_per_chunk == 3
    assert_right(NMF2D, args, "triton")


@over_orders
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("multiprocessors", [1, 4, 132])
def test_nmf2d_in_any_number_of_slabs(
    multiprocessors: int, dtype: torch.dtype, inner_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_split, "MULTIPROCESSORS", multiprocessors)
    for name in ("BASES", "GRAM"):  # sums go over two parts at a time
        sizes = {**dict(getattr(triton_split, name).sizes), "PARTS": 2}
        monkeypatch.setattr(triton_split, name, config(**sizes))
    sizes = dict(b=1, d=150, n=150, r=20, steps=2, inner_rows=inner_rows)
    assert_right(NMF2D, NMF2D.samples[0].make(dtype, **sizes), "triton")
    args = NMF2D_PROJECTED.samples[0].make(dtype, **sizes, p=90)
    with use_backend("triton"):
        assert_output(NMF2D_PROJECTED, NMF2D_PROJECTED.public(*args), args)


def test_nmf2d_keeps_the_states_of_all_ranks() -> None:
    for grad, rank in (("unrolled", 33), ("one_step", 3)):
        args = NMF2D.samples[0].make(torch.bfloat16, d=9, n=20, r=rank, steps=2, grad=grad)
        with use_backend("triton"):
            actual = NMF2D.op(*args)
        for state, expected in zip(actual[1:], nmf2d_reference.nmf2d(*args)[1:], strict=True):
            torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_launches_of_nmf2d(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    start = launch.start

    def note(function: Any, *args: Any, **options: Any) -> None:
        names.append(function.__name__)
        start(function, *args, **options)

    monkeypatch.setattr(launch, "start", note)
    x, bases, *others = NMF2D.samples[0].make(dtype, b=1, n=5, steps=3)
    with use_backend("triton"):
        _, saved_bases, saved_coef = NMF2D.op(x, bases, *others)
        assert len(names) == (2 * 3 + 2 if dtype == torch.float32 else 4 * 3 + 3), names
        names.clear()
        torch.ops.segnext_kernels.nmf2d_backward(x, x, saved_bases, saved_coef, "unrolled", 1e-6)
    assert len(names) == 2 * 3 + 3, names
