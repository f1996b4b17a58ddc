"""Tests models of one logit, whose two classes a threshold separates, and how logits are resized."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segnext import deploy
from segnext.data.preprocessing import normalise
from segnext.data.resizing import resize
from segnext.models import SegNeXt, build
from segnext.models.labels import class_logits, two_logits
from segnext.predict.inference import Inference, predict_logits, predict_mask
from tests.models.narrow import narrow


def with_both_classes(**options: object) -> SegNeXt:
    model = narrow(**options)
    torch.nn.init.normal_(model.decoder.classifier.weight, std=8.0)
    return model


def noise() -> torch.Tensor:
    return torch.randint(256, (2, 3, 45, 70), dtype=torch.uint8)


@pytest.mark.parametrize("threshold", [0.3, 0.45, 0.5])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_one_logit_is_compared_with_the_threshold(threshold: float, scales: tuple[float, ...]) -> None:
    model, pixels = with_both_classes(num_classes=2, threshold=threshold), noise()
    images = normalise(pixels)
    with torch.no_grad():
        views = [normalise(resize(pixels, (int(45 * s + 0.5), int(70 * s + 0.5)))) for s in scales]
        logits = [F.interpolate(model.forward_logits(view), size=(45, 70), mode="bilinear") for view in views]
    probability = torch.stack([each.sigmoid() for each in logits]).mean(0)[:, 0]
    expected = (probability > threshold).to(torch.uint8)
    assert len(expected.unique()) == 2
    mask = predict_mask(model, pixels, inference=Inference(scales=scales))
    assert (mask != expected).float().mean() < 1e-3
    if len(scales) == 1:
        assert torch.equal(mask, model.predict(images))
        sliding = predict_mask(model, pixels, inference=Inference(mode="slide", crop=70))
        assert torch.equal(sliding, mask)
        assert torch.equal(deploy(model).predict(images), mask)
        assert torch.equal(predict_logits(model, pixels).argmax(1), mask)


def test_loss_of_one_logit_is_binary_cross_entropy() -> None:
    model, images = with_both_classes(num_classes=2, threshold=0.3), torch.randn(2, 3, 40, 48)
    targets = torch.randint(0, 2, (2, 40, 48))
    targets[0, :9] = 255
    logits, counted = model(images)[:, 0], targets != 255
    expected = F.binary_cross_entropy_with_logits(logits[counted], targets[counted].float())
    torch.testing.assert_close(model.loss(images, targets), expected, rtol=1e-5, atol=1e-6)


def test_two_logits() -> None:
    logits = torch.tensor([-3.0, 0.0, 3.0]).view(1, 1, 1, 3)
    assert two_logits(logits, None) is logits and class_logits(logits, None) is logits
    assert two_logits(logits, 0.5).argmax(1).flatten().tolist() == [0, 0, 1]  # above the threshold, not at it
    assert two_logits(logits, 0.97).argmax(1).flatten().tolist() == [0, 0, 0]
    torch.testing.assert_close(class_logits(logits, 0.97).softmax(1)[:, 1:], logits.sigmoid())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(num_classes=1),
            "num_classes must be at least 2 .*use two, or num_classes=2 with threshold=0.5",
        ),
        (dict(num_classes=3, threshold=0.5), "num_classes must be 2 with a threshold"),
        (dict(num_classes=2, threshold=1.0), "threshold must be a number between 0 and 1, or None, got 1.0"),
        (dict(num_classes=2, threshold=True), "threshold must be"),
        (dict(eval_steps=0), "eval_steps must be from 1 to 1000, got 0"),
    ],
)
def test_what_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build("segnext_t", **options)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_aligned_corners(outside: bool, inside: bool) -> None:
    """The features inside the decoder and the logits are each resized as the configuration says, everywhere alike."""
    plain = with_both_classes(num_classes=5)
    model = with_both_classes(num_classes=5, align_corners=outside, decoder_align_corners=inside)
    pixels, targets = noise(), torch.randint(0, 5, (2, 45, 70))
    images = normalise(pixels)
    with torch.no_grad():
        low = model.forward_logits(images)
        assert torch.equal(low, plain.forward_logits(images)) == (not inside)
        expected = F.interpolate(low, size=(45, 70), mode="bilinear", align_corners=outside)
        torch.testing.assert_close(model(images), expected)
        torch.testing.assert_close(model.loss(images, targets), F.cross_entropy(expected, targets))
    assert torch.equal(model.predict(images), expected.argmax(1).to(torch.uint8))
    assert torch.equal(predict_logits(model, pixels), expected)
    fast = deploy(model)
    # The classifier's large weights make logits of about 100.
    torch.testing.assert_close(fast(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert (fast.predict(images) != expected.argmax(1)).float().mean() < 1e-3


def test_steps_of_the_factorisation_in_evaluation() -> None:
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        seven, three = (
            with_both_classes(num_classes=3, eval_steps=steps).forward_logits(images) for steps in (7, 3)
        )
        assert not torch.allclose(seven, three)
        fast = deploy(with_both_classes(num_classes=3, eval_steps=3)).forward_logits(images)
        torch.testing.assert_close(fast, three, rtol=1e-4, atol=1e-4)
