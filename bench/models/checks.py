"""Checks logits and label maps of whole models against the official arithmetic in float32, before any timing."""

from __future__ import annotations

from torch import Tensor

from oracle import transcription
from segnext.measure.agreement import logits_error, worse_pixels

TOLERANCE = 1e-4  # of the largest logit, in float32
AGREEMENT = 0.99  # of the pixels, in bfloat16


def assert_close(actual: Tensor, oracle: Tensor, what: str) -> None:
    """Assert that logits are within the tolerance of the oracle's."""
    assert oracle.isfinite().all() and actual.isfinite().all(), f"{what}: logits must be finite"
    error = logits_error(actual, oracle)
    assert error <= TOLERANCE, f"{what}: relative error of the logits {error:.2e} is above {TOLERANCE:.0e}"


def assert_best_class(labels: Tensor, oracle: Tensor, what: str) -> None:
    """Assert that each pixel's class is the oracle's best, or as good within the tolerance of two logits."""
    assert oracle.isfinite().all(), f"{what}: logits must be finite"
    count = worse_pixels(labels, oracle, TOLERANCE)
    assert not count, f"{what}: {count} pixels have a class that is not the best"


def assert_labels_agree(labels: Tensor, oracle: Tensor, what: str) -> None:
    """Assert that labels of bfloat16 arithmetic are those of the oracle's logits on nearly all pixels."""
    expected = transcription.resized_argmax(oracle, labels.shape[1:])
    share = (labels == expected).float().mean().item()
    assert share >= AGREEMENT, f"{what}: labels agree on {share:.2%} of the pixels, not {AGREEMENT:.0%}"
