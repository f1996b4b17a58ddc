"""dwconv_gelu's CUDA kernels on the emulator: every variant, dtype, layout and edge, in every schedule."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from oracle.inputs import GPU_DTYPES, LAYOUTS
from segnext_kernels.ops.dwconv_gelu import compiled, reference
from segnext_kernels.ops.dwconv_gelu.spec import SPEC
from segnext_kernels.spec import Sample
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import assert_backward, assert_forward, poisoned_view

BUILD = SPEC.samples[0].build
EDGES = (
    Sample("c40-h11w35-two-tiles", BUILD, {"n": 1, "c": 40, "h": 11, "w": 35}),
    Sample("c72-h35w6-strips-and-slices", BUILD, {"n": 3, "c": 72, "h": 35, "w": 6}),
    Sample("c18-h6w68-beside-each-other", BUILD, {"n": 1, "c": 18, "h": 6, "w": 68}),
)
dtypes = pytest.mark.parametrize("dtype", GPU_DTYPES.values(), ids=GPU_DTYPES)
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
samples = pytest.mark.parametrize("sample", (*SPEC.samples, *EDGES), ids=lambda sample: sample.name)


@dtypes
@layouts
@samples
def test_forward_and_backward(
    emulator: Emulator, sample: Sample, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    args = sample.make(dtype, layout=layout)
    assert_forward(emulator, compiled.FORWARD["cuda"].run, reference.dwconv_gelu, args)
    assert_backward(emulator, compiled.BACKWARD["cuda"].run, reference.dwconv_gelu_backward, args)


@dtypes
@layouts
def test_views_into_larger_images(
    emulator: Emulator, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    x, *params = Sample("", BUILD, {"n": 2, "c": 16, "h": 6, "w": 5}).make(dtype, layout=layout)
    args = (poisoned_view(x), *params)
    assert_forward(emulator, compiled.FORWARD["cuda"].run, reference.dwconv_gelu, args)
    grad = poisoned_view(torch.randn(x.shape).to(dtype).contiguous(memory_format=layout))
    assert_backward(emulator, compiled.BACKWARD["cuda"].run, reference.dwconv_gelu_backward, args, grad)


@dtypes
def test_not_a_number_stays_where_it_reaches(emulator: Emulator, dtype: torch.dtype) -> None:
    args = Sample("", BUILD, {"n": 1, "c": 8, "h": 9, "w": 9}).make(dtype, layout=torch.channels_last)
    args[0][0, 3, 4, 4] = torch.nan
    out = emulator.run(compiled.FORWARD["cuda"].run, *args)
    reached = torch.zeros_like(out, dtype=torch.bool)
    reached[0, 3, 3:6, 3:6] = True
    assert torch.equal(out.isnan(), reached)


# of gelu / max(1, |x|), and of its derivative: csrc/cuda/gelu.cuh's table; a 16-bit result is rounded once more
GELU_ERRORS = {
    torch.float32: (1.0e-7, 1.4e-7),
    torch.float16: (5.0e-5, 7.0e-5),
    torch.bfloat16: (5.0e-5, 7.0e-5),
}
SIDE = 24


def gelu_and_derivative(emulator: Emulator, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Through the op, whose centre tap of 1 passes each of SIDE x SIDE x 8 values on as it is."""
    x = values.reshape(1, 8, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(8, 1, 3, 3, dtype=x.dtype)
    weight[:, :, 1, 1] = 1
    grad_x = compiled.BACKWARD["cuda"].run(torch.ones_like(x), x, weight, None)[0]
    return compiled.FORWARD["cuda"].run(x, weight, None).reshape(-1), grad_x.reshape(-1)


@dtypes
def test_gelu_is_accurate_everywhere(emulator: Emulator, dtype: torch.dtype) -> None:
    quarter = 2 * SIDE * SIDE
    far = torch.logspace(-37, 4, quarter)
    values = torch.cat([far, -far, torch.linspace(-14, 14, 2 * quarter)]).to(dtype)
    exact = values.double().requires_grad_()
    F.gelu(exact).sum().backward()
    for result, oracle, scale, error in zip(
        gelu_and_derivative(emulator, values),
        (F.gelu(exact).detach(), exact.grad),
        (exact.detach().abs().clamp(min=1), 1),
        GELU_ERRORS[dtype],
        strict=True,
    ):
        finfo = torch.finfo(dtype)
        rounding = finfo.eps / 2 * oracle.abs() + finfo.tiny if finfo.bits == 16 else 0
        assert ((((result.double() - oracle).abs() - rounding) / scale).max()) < error


def test_gelu_of_what_is_not_finite_is_pytorchs(emulator: Emulator) -> None:
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 1e-40, -1e-40, -0.0, 0.0])
    values = torch.zeros(8, SIDE, SIDE)
    # apart: the other taps multiply by zero, which makes NaN of Inf
    places = (slice(None), slice(1, None, 8), slice(1, None, 8))
    values[places] = special.repeat(8).reshape(8, 3, 3)
    exact = values.double().requires_grad_()
    F.gelu(exact).sum().backward()
    for result, oracle in zip(
        gelu_and_derivative(emulator, values), (F.gelu(exact), exact.grad), strict=True
    ):
        result, oracle = result.reshape(values.shape)[places], oracle[places].float()
        torch.testing.assert_close(result, oracle, equal_nan=True, rtol=1e-6, atol=0)
