"""Tests dwconv_gelu's CUDA kernels on the emulator: how far NaN reaches, and how accurate their GELU is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from oracle.inputs import GPU_DTYPES
from segnext_kernels.ops.dwconv_gelu.spec import SPEC
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import kernel

dtypes = pytest.mark.parametrize("dtype", GPU_DTYPES.values(), ids=GPU_DTYPES)


@dtypes
def test_not_a_number_stays_where_it_reaches(emulator: Emulator, dtype: torch.dtype) -> None:
    args = SPEC.samples[0].make(dtype, layout=torch.channels_last, n=1, w=9)
    args[0][0, 3, 4, 4] = torch.nan
    out = emulator.run(kernel("dwconv_gelu"), *args)
    reached = torch.zeros_like(out, dtype=torch.bool)
    reached[0, 3, 3:6, 3:6] = True
    assert torch.equal(out.isnan(), reached)


# Errors of gelu / max(1, |x|) and of the derivative, from csrc/cuda/gelu.cuh; a 16-bit result is rounded once more.
GELU_ERRORS = {
    torch.float32: (1.0e-7, 1.4e-7),
    torch.float16: (5.0e-5, 7.0e-5),
    torch.bfloat16: (5.0e-5, 7.0e-5),
}
SIDE = 24


def gelu_and_derivative(emulator: Emulator, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute through the op, whose centre tap of 1 passes each of SIDE x SIDE x 8 values on as it is."""
    x = values.reshape(1, 8, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(8, 1, 3, 3, dtype=x.dtype)
    weight[:, :, 1, 1] = 1
    grad_x = kernel("dwconv_gelu_backward")(torch.ones_like(x), x, weight, None)[0]
    return kernel("dwconv_gelu")(x, weight, None).reshape(-1), grad_x.reshape(-1)


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
    # far apart, since the other taps multiply by zero, which turns Inf into NaN
    places = (slice(None), slice(1, None, 8), slice(1, None, 8))
    values[places] = special.repeat(8).reshape(8, 3, 3)
    exact = values.double().requires_grad_()
    F.gelu(exact).sum().backward()
    for result, oracle in zip(
        gelu_and_derivative(emulator, values), (F.gelu(exact), exact.grad), strict=True
    ):
        result, oracle = result.reshape(values.shape)[places], oracle[places].float()
        torch.testing.assert_close(result, oracle, equal_nan=True, rtol=1e-6, atol=0)
