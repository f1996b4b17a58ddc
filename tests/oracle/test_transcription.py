"""Tests the official arithmetic in one memory format from end to end: each format gives the same numbers."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from bench.models.checks import assert_best_class
from oracle import transcription
from oracle.inputs import LAYOUTS, in_layout

BASES = F.normalize(torch.rand(1, 256, 16, generator=torch.Generator().manual_seed(0)), dim=1)
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@cache
def state_dict() -> transcription.StateDict:
    return transcription.trained_like("t", 7)


@layouts
def test_logits_and_labels_are_those_of_contiguous_tensors(layout: torch.memory_format) -> None:
    images = torch.randn(2, 3, 72, 104)
    with torch.inference_mode():
        expected = transcription.segment(state_dict(), BASES, images)
        sd, images = in_layout((state_dict(), images), layout)
        low = transcription.logits(sd, BASES, images)
        labels = transcription.mask(sd, BASES, images)
        assert torch.equal(transcription.mask(sd, BASES, images, axis=-1), labels)
    assert low.shape == (2, 7, 9, 13) and expected.shape == (2, 7, 72, 104)
    full = F.interpolate(low, (72, 104), mode="bilinear", align_corners=False)
    torch.testing.assert_close(full, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert_best_class(labels, low, "plain")


@layouts
def test_features_keep_the_layout(layout: torch.memory_format) -> None:
    with torch.inference_mode():
        features = transcription.features(*in_layout((state_dict(), torch.randn(1, 3, 64, 96)), layout))
    for feature in features:
        assert feature.is_contiguous(memory_format=layout)
