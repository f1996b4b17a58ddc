"""The peer of our models is the official arithmetic, in one memory format from end to end."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from bench import plain_segnext
from bench.models import workloads
from bench.peers import in_layout
from oracle import transcription

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
BASES = F.normalize(torch.rand(1, 256, 16, generator=torch.Generator().manual_seed(0)), dim=1)


@cache
def state_dict() -> transcription.StateDict:
    return transcription.trained_like("t", 7)


@layouts
def test_logits_are_those_of_the_transcription(layout: torch.memory_format) -> None:
    images = torch.randn(2, 3, 72, 104)
    with torch.inference_mode():
        expected = transcription.segment(state_dict(), images, BASES)
        sd, images = in_layout((state_dict(), images), layout)
        low = plain_segnext.logits(sd, BASES, images)
        labels = plain_segnext.mask(sd, BASES, images)
        assert torch.equal(plain_segnext.mask_innermost(sd, BASES, images), labels)
    assert low.shape == (2, 7, 9, 13)
    full = F.interpolate(low, (72, 104), mode="bilinear", align_corners=False)
    torch.testing.assert_close(full, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    workloads.assert_best_class(labels, low, "plain")


@layouts
def test_features_keep_the_layout(layout: torch.memory_format) -> None:
    with torch.inference_mode():
        features = plain_segnext.features(*in_layout((state_dict(), torch.randn(1, 3, 64, 96)), layout))
    for feature in features:
        assert feature.is_contiguous(memory_format=layout)


def test_training_steps_are_the_models() -> None:
    """Two steps: the loss of the second shows the update of the first."""
    model, official = workloads.pair("t", drop_path=0.0, decoder_dropout=0.0)
    images, targets = torch.randn(2, 3, 64, 64), torch.randint(workloads.CLASSES, (2, 64, 64))
    plain = workloads.plain_training(official, model, images, targets).step()
    ours = workloads.model_training(model, images, targets).step()
    workloads.assert_same_step(ours, plain, "ours")
    ours.step(), plain.step()
    assert ours.losses == pytest.approx(plain.losses, rel=1e-4)
    assert ours.losses[1] < ours.losses[0]


def test_gates_refuse_what_is_wrong() -> None:
    logits = torch.randn(1, 5, 8, 8)
    labels = plain_segnext.resized_argmax(logits, (32, 32))
    workloads.assert_best_class(labels, logits, "same")
    workloads.assert_close(logits, logits, "same")
    workloads.assert_labels_agree(labels, logits, "same")
    labels[0, :2, :] = (labels[0, :2, :] + 1) % 5
    with pytest.raises(AssertionError, match=r"other: labels agree on 93.75% of the pixels, not 99%"):
        workloads.assert_labels_agree(labels, logits, "other")
    labels = plain_segnext.resized_argmax(logits, (32, 32))
    labels[0, 7, 7] = (labels[0, 7, 7] + 1) % 5
    with pytest.raises(AssertionError, match="other: 1 pixels have a class that is not the best"):
        workloads.assert_best_class(labels, logits, "other")
    with pytest.raises(AssertionError, match="other: relative error of the logits"):
        workloads.assert_close(logits + 1e-2, logits, "other")
    with pytest.raises(AssertionError, match="other: logits must be finite"):
        workloads.assert_close(logits / 0, logits, "other")


def test_a_fitted_classifier_has_the_margins_of_a_trained_one() -> None:
    """The gate of bfloat16 passes eager PyTorch; with random classes it would ask for what rounding decides."""
    model, official = workloads.pair("t")
    images, labels = workloads.scene(128)
    workloads.fit_classifier(model, official, images, labels)
    with torch.inference_mode():
        bases = model.decoder.hamburger.bases
        oracle = plain_segnext.logits(official, bases, images)
        workloads.assert_close(model.forward_logits(images), oracle, "model")
        build = workloads.plain_build(plain_segnext.mask, official, bases, images, torch.bfloat16)
        for layout in LAYOUTS.values():
            function, inputs = build(layout)
            workloads.assert_labels_agree(function(*inputs), oracle, "eager")
    fitted = (oracle.argmax(1) == labels).float().mean()
    assert fitted > 0.8 and oracle.argmax(1).unique().numel() > 20
