"""Tests that NaN and Inf never become classes."""

from __future__ import annotations

import pytest
import torch

from segnext import deploy
from segnext.data.preprocessing import normalise
from segnext.models import SegNeXt
from segnext.models.finite import NonFiniteError, expect_finite, first_non_finite
from segnext.predict.inference import Inference, predict_logits, predict_mask
from tests.models.narrow import narrow


@pytest.fixture
def model() -> SegNeXt:
    return narrow()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(model: SegNeXt, value: float) -> None:
    model.decoder.classifier.bias.data[1] = value
    pixels = torch.randint(256, (1, 3, 32, 40), dtype=torch.uint8)
    images = normalise(pixels)
    for network, name in ((model, "decoder.classifier.bias"), (deploy(model), "classifier.bias")):
        with pytest.raises(NonFiniteError, match=rf"got 20 of 60 that are NaN or Inf; .* in {name};"):
            network.predict(images)
        for inference in (Inference(), Inference(mode="slide", crop=32), Inference(scales=(1.0, 2.0))):
            for predict in (predict_mask, predict_logits):
                with pytest.raises(NonFiniteError, match=f"in {name};"):
                    predict(network, pixels, inference=inference)


def test_images_that_are_not_finite(model: SegNeXt) -> None:
    images = torch.randn(1, 3, 32, 40)
    images[0, 1, 3, 4] = float("nan")
    for network in (model, deploy(model)):
        with pytest.raises(NonFiniteError, match="check the values of the images"):
            network.predict(images)


def test_a_sum_that_overflows_is_no_fault() -> None:
    expect_finite(torch.full((4,), 3e38), "logits")
    with pytest.raises(NonFiniteError, match="net: logits must be finite, got 1 of 2"):
        expect_finite(torch.tensor([3e38, float("inf")]), "net")


def test_first_non_finite() -> None:
    assert first_non_finite({"a": torch.zeros(2), "n": torch.zeros((), dtype=torch.long)}) is None
    assert first_non_finite({"a": torch.zeros(2), "b": torch.tensor([1.0, float("nan")])}) == "b"
