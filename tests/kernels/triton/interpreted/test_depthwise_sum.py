"""Tests depthwise_sum's Triton kernels beyond the contract: large tiles, shared parts, and kernels that are broken."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from oracle.accuracy import assert_accurate, assert_gradient_accurate
from oracle.inputs import LAYOUTS
from segnext_kernels.ops.convolutions import depthwise, depthwise_backward
from segnext_kernels.ops.depthwise_sum import triton_convolutions, triton_products
from segnext_kernels.ops.depthwise_sum.spec import SPEC, square
from segnext_kernels.ops.depthwise_sum.triton_layers import Layer, packed
from segnext_kernels.spec import Sample
from segnext_kernels.triton import launch, tuning
from tests.kernels.against_definition import assert_right
from tests.kernels.triton.interpreted.test_dropped_mask import module_of

LAST = torch.channels_last
over_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def make(layout: torch.memory_format = LAST, **sizes: Any) -> tuple[Any, ...]:
    return Sample("", SPEC.samples[0].build, sizes).make(layout=layout)


@over_layouts
@pytest.mark.parametrize("index", range(3))
def test_large_tiles(index: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles along each axis; rows of two dilations, of which the second leaves output rows without a pair."""

    def take(space: tuning.Space, key: str, x: torch.Tensor, run: Any) -> Any:
        return run(space.configs[min(index, len(space.configs) - 1)])

    monkeypatch.setattr(triton_convolutions, "MANY", 0)
    monkeypatch.setattr(tuning, "tuned", take)
    w, c = (34, 34) if layout == LAST else (66, 10)
    branches = [square(3), [(5, 1, 3, 1)]]
    assert_right(SPEC, make(layout, n=1, c=c, h=7, w=w, branches=branches), "triton")


@pytest.mark.parametrize("programs", [1, 20, 4096])
def test_tiles_that_share_a_part(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_products, "PROGRAMS", programs)
    assert_right(SPEC, make(n=2, c=3, h=18, w=20, branches=[square(3)]), "triton")


def test_launches_of_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches share a launch if their rows have one dilation, three at most; the identity costs none."""
    launches = []
    start = launch.start

    def note(function: Any, *args: Any, **constants: Any) -> None:
        launches.append((constants["TERMS"], constants["HAS_BASE"]))
        start(function, *args, **constants)

    monkeypatch.setattr(launch, "start", note)
    ones = [[], [(1, 1)], [(3, 1)], [(1, 1)], [(1, 1)], [(3, 1, 2, 1)]]
    x, *rest = make(n=1, c=3, h=3, w=4, branches=ones)
    out = SPEC.reference(x, *rest)
    from segnext_kernels.ops.depthwise_sum.triton_kernels import forward  # imports nothing at collection

    assert_accurate(forward(x, *rest), SPEC.reference(x.double(), *_double(rest)), out)
    assert launches == [(3, True), (1, True), (1, True)]


def _double(rest: list[Any]) -> list[Any]:
    return [[t.double() for t in part] if index < 2 else part for index, part in enumerate(rest)]


# kernel's text, and what replaces it; loads only, which stay inside the larger tensor
SUM_BREAKS = {
    "mask-on-the-left": ("(w + shift >= 0) &", "(w + shift >= -1) &"),
    "mask-on-the-right": ("(w + shift < width)", "(w + shift <= width)"),
    "mask-of-the-first-row": ("if (top >= 0) &", "if (top >= -2) &"),
    "mask-of-the-last-row": ("(bottom < height):", "(bottom <= height):"),
    "rows-from-above": ("tl.maximum(1, kh // 2 - first // dh)", "1"),
    "rows-from-below": ("kh // 2 + tl.cdiv(height - first, dh))", "kh)"),
    "first-column": ("low = tl.maximum(0,", "low = tl.maximum(1,"),
    "last-column": ("kw // 2 + tl.cdiv(width - column, dw))", "kw // 2)"),
    "dilation-of-the-columns": ("shift = (j - kw // 2) * dw", "shift = j - kw // 2"),
    "tap-of-the-lower-row": ("tap - tap_h, c", "tap, c"),
    "second-image": ("x1_ptr, taps1_ptr, n,", "x0_ptr, taps1_ptr, n,"),
    "base": ("if HAS_BASE:", "if not HAS_BASE:"),
    "bias": (
        "_tap(taps1_ptr + c, kh1 * kw1 * channels",
        "_tap(taps1_ptr + c, kh1 * kw1 * channels - channels",
    ),
}
PRODUCT_BREAKS = {
    "mask-on-the-left": ("(moved >= 0) &", "(moved >= -1) &"),
    "mask-on-the-right": ("(moved < width)", "(moved <= width)"),
    "mask-of-the-rows": ("(h + by_h >= 0) & (h + by_h < height)", "(h + by_h >= -1) & (h + by_h < height)"),
    "rows-of-the-bias": ("if first_tap + TAPS > taps:", "if first_tap > taps:"),
    "row-of-a-tap": ("(tap // kw - kh // 2) * dh, (tap % kw", "(tap // kh - kh // 2) * dh, (tap % kw"),
    "input-of-the-bias": ("tl.where(is_tap, 0.0, 1.0)", "tl.where(is_tap, 0.0, 0.0)"),
}


def inside(n: int, c: int, h: int, w: int) -> torch.Tensor:
    """Make an image inside a larger one of NaN."""
    larger = torch.full((n + 2, h + 8, w + 8, c + 3), torch.nan)
    return larger[1:-1, 4:-4, 4:-4, 1:-2].normal_().permute(0, 3, 1, 2)


def parameters() -> tuple[list[torch.Tensor], list[torch.Tensor], list[Layer]]:
    weights, biases = [torch.randn(5, 1, 5, 3), torch.randn(5, 1, 3, 5)], [torch.randn(5), torch.randn(5)]
    return weights, biases, packed(weights, biases, [2, 1, 2, 2])


def assert_sum_right(module: ModuleType) -> None:
    vars(module)["MANY"] = 0  # large tiles, which have two rows
    weights, biases, layers = parameters()
    images, base = [inside(2, 5, 7, 9), inside(2, 5, 7, 9)], inside(2, 5, 7, 9)
    pairs = [(2, 1), (2, 2)]
    expected = []
    for dtype in (torch.float64, torch.float32):
        total = base.to(dtype)
        for image, weight, bias, pair in zip(images, weights, biases, pairs, strict=True):
            total = total + depthwise(image.to(dtype), weight.to(dtype), bias.to(dtype), pair)
        expected.append(total)
    out = torch.empty_like(base, memory_format=LAST)
    assert_accurate(module.convolved(list(zip(images, layers, strict=True)), [base], out), *expected)


def assert_products_right(module: ModuleType) -> None:
    weights, biases, layers = parameters()
    grad, x = inside(2, 5, 7, 9), inside(2, 5, 7, 9)
    sums = module.products(grad, x, layers[0])
    expected = [
        depthwise_backward(grad.to(dtype), x.to(dtype), weights[0].to(dtype), biases[0].to(dtype), (2, 1))[1]
        for dtype in (torch.float64, torch.float32)
    ]
    actual = [sums[:-1].T.reshape(5, 1, 5, 3), sums[-1]]
    for triple in zip(actual, *expected, strict=True):
        assert_gradient_accurate(*triple)


@pytest.mark.parametrize("name", ["nothing", *SUM_BREAKS])
def test_a_broken_sum_is_seen(name: str, tmp_path: Path) -> None:
    assert_seen(triton_convolutions, SUM_BREAKS.get(name), assert_sum_right, tmp_path)


@pytest.mark.parametrize("name", ["nothing", *PRODUCT_BREAKS])
def test_a_broken_product_is_seen(name: str, tmp_path: Path) -> None:
    assert_seen(triton_products, PRODUCT_BREAKS.get(name), assert_products_right, tmp_path)


def assert_seen(module: ModuleType, broken: tuple[str, str] | None, check: Any, folder: Path) -> None:
    text = Path(str(module.__file__)).read_text()
    if broken is None:
        check(module_of(text, folder))
        return
    assert broken[0] in text
    with pytest.raises(AssertionError):
        check(module_of(text.replace(*broken, 1), folder))
