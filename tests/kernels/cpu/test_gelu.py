"""Tests the CPU kernels' GELU over its whole range, by every instruction set: random samples see little of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segnext_kernels import dwconv_gelu, native, use_backend

pytestmark = [
    pytest.mark.skipif(native._C is None, reason="the compiled library is missing"),
    pytest.mark.usefixtures("instruction_set"),
]
WIDTH = 64


def gelu(values: torch.Tensor) -> torch.Tensor:
    """Compute through dwconv_gelu, whose convolution here passes each value on as it is."""
    x = values.reshape(1, 16, -1, WIDTH).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(16, 1, 3, 3)
    weight[:, :, 1, 1] = 1
    with use_backend("cpu"):
        return dwconv_gelu(x, weight).reshape(-1)


def test_accurate_everywhere() -> None:
    # the borders of the polynomials' intervals, and their neighbours
    borders = (torch.arange(-40, 41) * 3 / 16).float()
    near = [torch.nextafter(borders, torch.full_like(borders, to)) for to in (-torch.inf, torch.inf)]
    dense = torch.linspace(-12, 12, 1 << 20)
    far = torch.logspace(1, 38, 500)
    small = torch.logspace(-37, 0, 500)
    values = torch.cat([borders, *near, dense, far, -far, small, -small])
    values = torch.cat([values, values.new_zeros(-values.numel() % (16 * WIDTH))])
    error = (gelu(values).double() - F.gelu(values.double())).abs()
    assert (error / values.double().abs().clamp(min=1)).max() < 2.1e-7


def test_far_below_zero_it_is_zero() -> None:
    assert gelu(-torch.logspace(1, 38, 16 * WIDTH)).abs().max() == 0  # not a rounding error times 1e38


def test_what_is_not_finite_stays_so() -> None:
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0])  # -inf times a probability of 0 is NaN
    expected = torch.tensor([torch.inf, torch.nan, torch.nan, 0.0])
    values = torch.zeros(16, WIDTH, WIDTH)
    # far apart: the other taps multiply them by zero, which is NaN
    values[:, 8::16, 8::16] = special.repeat(4, 1)
    out = gelu(values.reshape(-1)).reshape(values.shape)[:, 8::16, 8::16]
    torch.testing.assert_close(out, expected.expand_as(out), equal_nan=True)


def derivative(values: torch.Tensor) -> torch.Tensor:
    """Compute as the gradient of dwconv_gelu's input, as `gelu` does the value."""
    x = values.reshape(1, 16, -1, WIDTH).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.zeros(16, 1, 3, 3)
    weight[:, :, 1, 1] = 1
    with use_backend("cpu"):
        out = dwconv_gelu(x, weight)
        out.backward(torch.ones_like(out))
    assert x.grad is not None
    return x.grad.reshape(-1)


def test_derivative_is_accurate_everywhere() -> None:
    dense, far = torch.linspace(-14, 14, 1 << 18), torch.logspace(1, 38, 16 * WIDTH)
    exact = torch.cat([dense, far, -far]).double().requires_grad_()
    F.gelu(exact).sum().backward()
    assert exact.grad is not None
    found = derivative(exact.detach().float())
    assert (found - exact.grad).abs().max() < 1e-6
    assert (found[-len(far) :][far > 14] == 0).all()  # a density of 1e-38 would count where it meets 1e38


def test_derivative_of_what_is_not_finite() -> None:
    """At infinity it is NaN, as PyTorch's: the value times a density of 0."""
    bias = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]).repeat(16).requires_grad_()
    with use_backend("cpu"):
        dwconv_gelu(torch.zeros(1, 64, 1, 1), torch.zeros(64, 1, 3, 3), bias).sum().backward()
    assert bias.grad is not None
    expected = torch.tensor([torch.nan, torch.nan, torch.nan, 0.5]).repeat(16)
    torch.testing.assert_close(bias.grad, expected, equal_nan=True)
