"""Tests depthwise_sum on the CPU beyond the contract: images in bands, many images, limits, how far NaN reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.accuracy import assert_output
from oracle.inputs import LAYOUTS
from segnext_kernels import choose, explain, native, use_backend
from segnext_kernels.ops.depthwise_sum import reference
from segnext_kernels.ops.depthwise_sum.spec import CAA, INCEPTIONNEXT, LKA, LSKNET, SPEC, STRIP_RCNN
from segnext_kernels.spec import Sample
from tests.contract.cases import assert_bitwise
from tests.kernels.against_definition import assert_right, run

pytestmark = pytest.mark.skipif(native._C is None, reason="the compiled library is missing")
over_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
SEVERAL: dict[str, Any] = dict(root=[(3, 3)], branches=[[], [(1, 9), (9, 1)], [(5, 5, 2, 2)]])
# High images, whose planes exceed the forward's budget, so that they stream through them in bands.
BANDS: dict[str, dict[str, Any]] = {
    "lka": dict(n=1, c=3, h=900, w=40, **LKA),
    "lsknet": dict(n=2, c=3, h=800, w=40, **LSKNET),
    "strip-rcnn": dict(n=1, c=20, h=901, w=41, **STRIP_RCNN),
    "several": dict(n=1, c=18, h=650, w=43, **SEVERAL),
    "split": dict(n=1, c=8, h=1100, w=37, widths=[3, 2, 2, 1], **INCEPTIONNEXT),
}


def arguments(layout: torch.memory_format = torch.contiguous_format, **sizes: Any) -> tuple[Any, ...]:
    return Sample("", SPEC.samples[0].build, sizes).make(layout=layout)


@pytest.mark.usefixtures("instruction_set", "threads")
@over_layouts
@pytest.mark.parametrize("name", BANDS)
def test_an_image_in_bands(name: str, layout: torch.memory_format) -> None:
    """By one thread, and by five whose shares begin anywhere in the image."""
    args = arguments(layout, **BANDS[name])
    with use_backend("cpu"):
        torch.set_num_threads(1)
        out = SPEC.call(*args)
        assert_output(SPEC, out, args)
        torch.set_num_threads(5)
        assert_bitwise(SPEC.call(*args), out, "with five threads")


@pytest.mark.usefixtures("threads")
def test_partial_gradients_of_groups_of_images() -> None:
    """More images than there are partial gradients: some of them add to the same."""
    args = arguments(n=37, c=18, h=5, w=6, **SEVERAL)
    torch.set_num_threads(1)
    assert_right(SPEC, args)
    _, grads = run(SPEC, args)
    torch.set_num_threads(5)
    assert_bitwise(run(SPEC, args)[1], grads, "with five threads")


@pytest.mark.parametrize("row", [0, 5, 11], ids=["top", "middle", "bottom"])
def test_nan_reaches_as_far_as_the_taps(row: int) -> None:
    """Taps outside of the image are skipped by whole tiles; no tile may multiply what its taps do not reach."""
    x, *params = arguments(n=1, c=2, h=12, w=11, **CAA)
    x[0, 0, row, 3] = torch.nan
    with use_backend("cpu"):
        found = SPEC.call(x, *params)
    assert torch.equal(found.isnan(), reference.depthwise_sum(x, *params).isnan())


def test_too_many_convolutions_are_refused_in_words() -> None:
    many = arguments(n=1, c=2, h=3, w=4, branches=[[(1, 3)] * 33])
    assert "takes up to 32 convolutions, not 33" in explain("depthwise_sum", *many)
    branches = arguments(n=1, c=2, h=3, w=4, branches=[[]] * 17)
    assert "takes up to 16 branches, not 17" in explain("depthwise_sum", *branches)
    for args in (many, branches):
        assert_output(SPEC, SPEC.call(*args), args)


def test_auto_leaves_single_small_kernels_on_large_maps_to_pytorch() -> None:
    def chosen(side: int, *branches: Any, layout: torch.memory_format = torch.channels_last) -> str:
        return choose("depthwise_sum", *arguments(layout, n=1, c=16, h=side, w=side, branches=branches))

    assert chosen(80, [(3, 3)]) == chosen(30, [(3, 3)]) == chosen(80, [(7, 7)]) == "reference"
    assert chosen(80, [(3, 3), (3, 3)]) == chosen(80, [], [(3, 3)]) == "reference"
    assert chosen(14, [(3, 3)]) == chosen(56, [(7, 7)]) == chosen(80, [(9, 9)]) == "cpu"
    assert chosen(80, [(7, 7, 3, 3)]) == chosen(80, *CAA["branches"]) == "cpu"
    assert chosen(80, [(3, 3)], layout=torch.contiguous_format) == "cpu"
    for shape in SPEC.model_shapes:
        assert choose("depthwise_sum", *shape.make(layout=torch.channels_last)) == "cpu"


def test_auto_leaves_their_gradients_too() -> None:
    def chosen(side: int, kernel: tuple[int, ...]) -> str:
        args = arguments(torch.channels_last, n=1, c=16, h=side, w=side, branches=[[kernel]])
        return choose("depthwise_sum_backward", args[0], *args)

    assert chosen(80, (3, 3)) == "reference"
    assert chosen(80, (5, 5)) == chosen(80, (3, 3, 2, 2)) == chosen(56, (3, 3)) == "cpu"
