"""Checks of whole models: right logits and label maps pass, wrong ones are refused in words."""

from __future__ import annotations

import pytest
import torch

from oracle import predictions, transcription


def test_what_is_wrong_is_refused() -> None:
    logits = torch.randn(1, 5, 8, 8)
    labels = transcription.resized_argmax(logits, (32, 32))
    predictions.assert_best_class(labels, logits, "same")
    predictions.assert_close(logits, logits, "same")
    predictions.assert_labels_agree(labels, logits, "same")
    labels[0, :2, :] = (labels[0, :2, :] + 1) % 5
    with pytest.raises(AssertionError, match=r"other: labels agree on 93.75% of the pixels, not 99%"):
        predictions.assert_labels_agree(labels, logits, "other")
    labels = transcription.resized_argmax(logits, (32, 32))
    labels[0, 7, 7] = (labels[0, 7, 7] + 1) % 5
    with pytest.raises(AssertionError, match="other: 1 pixels have a class that is not the best"):
        predictions.assert_best_class(labels, logits, "other")
    with pytest.raises(AssertionError, match="other: relative error of the logits"):
        predictions.assert_close(logits + 1e-2, logits, "other")
    with pytest.raises(AssertionError, match="other: logits must be finite"):
        predictions.assert_close(logits / 0, logits, "other")
