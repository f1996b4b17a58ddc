"""dwconv_gelu's CUDA kernels on the emulator: every variant, dtype, layout and edge, in every schedule."""

from __future__ import annotations

import pytest
import torch

from segnext_kernels.ops.dwconv_gelu import op, reference
from segnext_kernels.ops.dwconv_gelu.spec import SPEC
from segnext_kernels.specification import Sample
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.emulated import DTYPES, LAYOUTS, assert_backward, assert_forward, poisoned_view

BUILD = SPEC.samples[0].build
EDGES = (
    Sample("c40-h11w35-two-tiles", BUILD, {"n": 1, "c": 40, "h": 11, "w": 35}),
    Sample("c72-h35w6-strips-and-slices", BUILD, {"n": 3, "c": 72, "h": 35, "w": 6}),
)
dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
samples = pytest.mark.parametrize("sample", (*SPEC.samples, *EDGES), ids=lambda sample: sample.name)


@dtypes
@layouts
@samples
def test_forward_and_backward(
    emulator: Emulator, sample: Sample, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    args = sample.make(dtype, layout=layout)
    assert_forward(emulator, op._cuda, reference.dwconv_gelu, args)
    assert_backward(emulator, op._cuda_backward, reference.dwconv_gelu_backward, args)


@dtypes
@layouts
def test_views_into_larger_images(
    emulator: Emulator, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    x, *params = Sample("", BUILD, {"n": 2, "c": 16, "h": 6, "w": 5}).make(dtype, layout=layout)
    args = (poisoned_view(x), *params)
    assert_forward(emulator, op._cuda, reference.dwconv_gelu, args)
    grad = poisoned_view(torch.randn(x.shape).to(dtype).contiguous(memory_format=layout))
    assert_backward(emulator, op._cuda_backward, reference.dwconv_gelu_backward, args, grad)


@dtypes
def test_not_a_number_stays_where_it_reaches(emulator: Emulator, dtype: torch.dtype) -> None:
    args = Sample("", BUILD, {"n": 1, "c": 8, "h": 9, "w": 9}).make(dtype, layout=torch.channels_last)
    args[0][0, 3, 4, 4] = torch.nan
    out = emulator.run(op._cuda, *args)
    reached = torch.zeros_like(out, dtype=torch.bool)
    reached[0, 3, 3:6, 3:6] = True
    assert torch.equal(out.isnan(), reached)
