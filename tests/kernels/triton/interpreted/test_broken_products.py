"""Breaks kernels around products on purpose: a dropped mask and a forgotten split are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from oracle.accuracy import assert_accurate
from oracle.gradients import cast
from segnext_kernels.ops.nmf2d import reference as nmf2d_reference
from segnext_kernels.ops.nmf2d import triton_kernels as nmf2d_kernels
from segnext_kernels.ops.nmf2d import triton_split
from segnext_kernels.triton import pointwise as products
from tests.kernels.triton.interpreted.test_dropped_mask import module_of


def inside(n: int, c: int, h: int, w: int) -> torch.Tensor:
    """Make an image inside a larger one of NaN."""
    larger = torch.full((n + 2, h + 2, w + 2, c + 9), torch.nan)
    return larger[1:-1, 1:-1, 1:-1, 4 : c + 4].normal_().permute(0, 3, 1, 2)


def pointwise(module: ModuleType) -> None:
    x, weight, bias = inside(1, 5, 3, 4), torch.randn(6, 5), torch.randn(6)
    out = torch.empty(1, 6, 3, 4)
    module.pointwise(x, weight, bias, out)
    expected = [torch.einsum("oi,nihw->nohw", w, x.to(w.dtype)) + b.view(-1, 1, 1) for w, b in
                ((weight.double(), bias.double()), (weight, bias))]  # fmt: skip
    assert_accurate(out, *expected)


def weight_gradient(module: ModuleType) -> None:
    grad, by, x = inside(1, 6, 9, 9), inside(1, 6, 9, 9), inside(1, 5, 9, 9)
    actual, _ = module.weight_gradient(grad, by, x, torch.empty(6, 5), torch.empty(6))
    expected = [torch.einsum("nohw,nohw,nihw->oi", *(t.to(dtype) for t in (grad, by, x))) for dtype in
                (torch.float64, torch.float32)]  # fmt: skip
    assert_accurate(actual, *expected)


def nmf2d(module: ModuleType) -> None:
    larger = torch.full((1, 6, 40), torch.nan)
    args = (larger[:, :5].uniform_(), torch.rand(1, 5, 3), 1, "unrolled", 1e-6, False)
    assert_accurate(module.forward(*args)[0], nmf2d_reference.nmf2d(*cast(args, torch.float64))[0],
                    nmf2d_reference.nmf2d(*args)[0])  # fmt: skip


def nmf2d_in_16_bits(module: ModuleType) -> None:
    larger = torch.full((1, 80, 170), torch.nan, dtype=torch.float16)
    args = (larger[:, :75, :160].uniform_(), torch.rand(1, 75, 3), 1, "unrolled", 1e-6, False)
    x, bases, steps, _, eps, _ = args
    assert_accurate(module.forward(x, bases, steps, eps)[0], nmf2d_reference.nmf2d(*cast(args, torch.float64))[0],
                    nmf2d_reference.nmf2d(*args)[0])  # fmt: skip


# name -> module, what is run, the kernel's text to be broken, and the text that replaces it
BREAKS: dict[str, tuple[ModuleType, Callable[[ModuleType], None], str, str]] = {
    "mask-of-the-input-channels": (
        products, pointwise, "x_mask = in_image[:, None] & (i < in_channels)[None, :]",
        "x_mask = in_image[:, None] & (i < in_channels + 1)[None, :]",
    ),
    "mask-of-the-pixels": (
        products, weight_gradient, "mask=in_image[:, None] & in_column[None, :],",
        "mask=(p <= pixels)[:, None] & in_column[None, :],",
    ),
    "first-split-alone": (products, weight_gradient, "for split in range(0, splits):",
                          "for split in range(0, 1):"),
    "channel-beyond-the-last": (
        nmf2d_kernels,
        nmf2d,
        "mask=(n < pixels)[:, None] & (d < channels)[None, :],",
        "mask=(n < pixels)[:, None] & (d <= channels)[None, :],",
    ),
    "sum-over-channels-cut": (nmf2d_kernels, nmf2d, "for start in range(0, channels, BLOCK_D):",
                              "for start in range(0, channels - channels, BLOCK_D):"),
    "first-slab-alone": (triton_split, nmf2d_in_16_bits, "first_tile = slab * tiles_per_slab", "first_tile = 0"),
    "gram-of-fewer-parts": (triton_split, nmf2d_in_16_bits, "mask=(part < parts)[:, None]",
                            "mask=(part < parts - 1)[:, None]"),
    "state-without-its-low-part": (triton_split, nmf2d_in_16_bits, "acc = tl.dot(a_high, b_low, acc)", "pass"),
    "channel-beyond-the-last-in-16-bits": (
        triton_split, nmf2d_in_16_bits, "mask=(n < pixels)[:, None] & (d < channels)[None, :],",
        "mask=(n < pixels)[:, None] & (d <= channels)[None, :],",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_seen(name: str, tmp_path: Path) -> None:
    module, check, right, wrong = BREAKS[name]
    text = Path(str(module.__file__)).read_text()
    check(module_of(text, tmp_path))
    assert right in text
    with pytest.raises(AssertionError):
        check(module_of(text.replace(right, wrong, 1), tmp_path))
