"""Tests the networks that the model benchmarks compare: both sides have the same weights, steps and margins."""

from __future__ import annotations

import pytest
import torch

from bench.models import checks, training
from bench.models.networks import CLASSES, fit_classifier, pair, plain_build, scene
from oracle import transcription
from oracle.inputs import LAYOUTS


def test_training_steps_are_the_models() -> None:
    """There are two steps, since the loss of the second shows the update of the first."""
    model, official = pair("t", drop_path=0.0, decoder_dropout=0.0)
    images, targets = torch.randn(2, 3, 64, 64), torch.randint(CLASSES, (2, 64, 64))
    plain = training.plain_training(official, model, images, targets).step()
    ours = training.model_training(model, images, targets).step()
    training.assert_same_step(ours, plain, "ours")
    ours.step(), plain.step()
    assert ours.losses == pytest.approx(plain.losses, rel=1e-4)
    assert ours.losses[1] < ours.losses[0]


def test_a_fitted_classifier_has_the_margins_of_a_trained_one() -> None:
    """Eager PyTorch passes the check of bfloat16; with random classes rounding would decide the result."""
    model, official = pair("t")
    images, labels = scene(128)
    fit_classifier(model, official, images, labels)
    with torch.inference_mode():
        bases = model.decoder.hamburger.bases
        oracle = transcription.logits(official, bases, images)
        checks.assert_close(model.forward_logits(images), oracle, "model")
        build = plain_build(transcription.mask, official, bases, images, torch.bfloat16)
        for layout in LAYOUTS.values():
            function, inputs = build(layout)
            checks.assert_labels_agree(function(*inputs), oracle, "eager")
    fitted = (oracle.argmax(1) == labels).float().mean()
    assert fitted > 0.8 and oracle.argmax(1).unique().numel() > 20


def test_what_is_wrong_is_refused() -> None:
    logits = torch.randn(1, 5, 8, 8)
    labels = transcription.resized_argmax(logits, (32, 32))
    checks.assert_best_class(labels, logits, "same")
    checks.assert_close(logits, logits, "same")
    checks.assert_labels_agree(labels, logits, "same")
    labels[0, :2, :] = (labels[0, :2, :] + 1) % 5
    with pytest.raises(AssertionError, match=r"other: labels agree on 93.75% of the pixels, not 99%"):
        checks.assert_labels_agree(labels, logits, "other")
    labels = transcription.resized_argmax(logits, (32, 32))
    labels[0, 7, 7] = (labels[0, 7, 7] + 1) % 5
    with pytest.raises(AssertionError, match="other: 1 pixels have a class that is not the best"):
        checks.assert_best_class(labels, logits, "other")
    with pytest.raises(AssertionError, match="other: relative error of the logits"):
        checks.assert_close(logits + 1e-2, logits, "other")
    with pytest.raises(AssertionError, match="other: logits must be finite"):
        checks.assert_close(logits / 0, logits, "other")
