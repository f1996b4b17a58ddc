"""msca_conv's CUDA kernels on the emulator: every variant, dtype, layout and edge, in every schedule."""

from __future__ import annotations

import pytest
import torch

from segnext_kernels import _library
from segnext_kernels.ops.msca_conv import op, reference
from segnext_kernels.ops.msca_conv.spec import SPEC
from segnext_kernels.specification import Sample
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.emulated import DTYPES, LAYOUTS, assert_backward, assert_forward, poisoned_view

BUILD = SPEC.samples[0].build
EDGES = (
    Sample("c24-h18w37-tiles-strips-slices", BUILD, {"n": 1, "c": 24, "h": 18, "w": 37}),
    Sample("c8-h6w5-five-pairs", BUILD, {"n": 1, "c": 8, "h": 6, "w": 5, "strips": (3, 9, 1, 5, 13)}),
    Sample("c3-h5w4-root1", BUILD, {"n": 1, "c": 3, "h": 5, "w": 4, "root": 1, "strips": (3, 7)}),
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
    assert_forward(emulator, op._cuda, reference.msca_conv, args)
    assert_backward(emulator, op._cuda_backward, reference.msca_conv_backward, args)
