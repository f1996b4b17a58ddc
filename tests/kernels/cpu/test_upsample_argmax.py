"""Tests upsample_argmax beyond the contract: what pruning by convexity could get wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from oracle.accuracy import assert_labels
from oracle.inputs import LAYOUTS
from segnext_kernels import native, upsample_argmax, use_backend

pytestmark = [
    pytest.mark.skipif(native._C is None, reason="the compiled library is missing"),
    pytest.mark.usefixtures("instruction_set"),
]
SIZES = [(64, 64), (31, 57), (8, 8), (9, 5), (3, 2), (1, 1)]


def labels_of(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    with use_backend("cpu"):
        return upsample_argmax(logits, size)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("classes", [1, 11, 16, 150, 300])
def test_labels(classes: int, size: tuple[int, int], layout: torch.memory_format) -> None:
    for height, width in ((8, 8), (1, 1), (5, 13)):
        logits = torch.randn(2, classes, height, width).contiguous(memory_format=layout)
        assert_labels(labels_of(logits, size), logits, size)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_smooth_maps_with_whole_cells_of_one_class(size: tuple[int, int]) -> None:
    logits = F.interpolate(torch.randn(1, 19, 3, 3), (16, 16), mode="bicubic")
    assert_labels(labels_of(logits, size), logits, size)


def test_a_class_that_wins_at_no_corner_wins_in_the_middle() -> None:
    # class 0 is high on the left, 1 on the right, 2 second everywhere: the middle is its own
    logits = torch.tensor([[[[10.0, 0.0]], [[0.0, 10.0]], [[7.0, 7.0]]]])
    labels = labels_of(logits, (1, 64))
    assert labels.unique().tolist() == [0, 1, 2]
    assert_labels(labels, logits, (1, 64))


def test_corners_that_agree_but_for_one() -> None:
    for corner in range(4):
        logits = torch.zeros(1, 5, 2, 2)
        logits[0, 3] = 1.0
        logits[0, 1].view(-1)[corner] = 1.5
        labels = labels_of(logits, (32, 32))
        assert labels.unique().tolist() == [1, 3]
        assert_labels(labels, logits, (32, 32))


def test_ties_go_to_the_first_class() -> None:
    assert not labels_of(torch.zeros(1, 40, 3, 4), (17, 9)).any()
    logits = torch.randn(1, 40, 6, 6).round()
    logits[:, 20:] = logits[:, :20]
    assert labels_of(logits, (48, 48)).max() < 20


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_non_finite_logits_are_as_pytorchs(value: float, size: tuple[int, int]) -> None:
    for share in (0.02, 0.5, 1.0):
        logits = torch.randn(2, 19, 8, 5)
        logits[torch.rand(logits.shape) < share] = value
        expected = F.interpolate(logits, size, mode="bilinear").argmax(1)
        finite = F.interpolate(logits, size, mode="bilinear").isfinite().all(1)
        labels = labels_of(logits, size).long()
        assert torch.equal(labels[~finite], expected[~finite])
        assert_labels(labels, logits, size)


def test_a_class_ruled_out_everywhere() -> None:
    # how users mask classes: every pixel takes the path of non-finite cells
    logits = torch.randn(1, 30, 7, 7)
    logits[:, ::3] = -torch.inf
    labels = labels_of(logits, (30, 41))
    assert_labels(labels, logits, (30, 41))


def test_the_largest_finite_values_do_not_overflow() -> None:
    largest = torch.finfo(torch.float32).max
    logits = torch.randn(1, 9, 4, 4).sign() * largest
    assert_labels(labels_of(logits, (23, 23)), logits, (23, 23))
    assert not labels_of(torch.full((1, 9, 4, 4), -largest), (8, 8)).any()


def test_threads_share_rows_of_several_images(threads: None) -> None:
    logits = torch.randn(3, 21, 9, 7)
    torch.set_num_threads(1)
    alone = labels_of(logits, (70, 55))
    for count in (2, 5, 64):
        torch.set_num_threads(count)
        assert torch.equal(labels_of(logits, (70, 55)), alone)
