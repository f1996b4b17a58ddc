"""When the logits and the label map of a whole model are right, beside the official arithmetic in float32."""

from __future__ import annotations

from torch import Tensor

from oracle import transcription

TOLERANCE = 1e-4  # of the largest logit, float32
AGREEMENT = 0.99  # of the pixels, bfloat16


def assert_labels_agree(labels: Tensor, oracle: Tensor, what: str) -> None:
    """Labels of bfloat16 arithmetic are those of the oracle's logits on nearly all pixels."""
    expected = transcription.resized_argmax(oracle, labels.shape[1:])
    share = (labels == expected).float().mean().item()
    assert share >= AGREEMENT, f"{what}: labels agree on {share:.2%} of the pixels, not {AGREEMENT:.0%}"


def assert_close(actual: Tensor, oracle: Tensor, what: str) -> None:
    """Logits within the tolerance of the oracle's."""
    assert oracle.isfinite().all() and actual.isfinite().all(), f"{what}: logits must be finite"
    error = ((actual - oracle).abs().max() / oracle.abs().max()).item()
    assert error <= TOLERANCE, f"{what}: relative error of the logits {error:.2e} is above {TOLERANCE:.0e}"


def assert_best_class(labels: Tensor, oracle: Tensor, what: str) -> None:
    """Each pixel's class is the oracle's best, or as good within the tolerance of two logits."""
    full = transcription.resized(oracle, labels.shape[1:])
    gap = full.amax(1) - full.gather(1, labels.long()[:, None]).squeeze(1)
    allowed = 2 * TOLERANCE * oracle.abs().max()
    assert oracle.isfinite().all(), f"{what}: logits must be finite"
    assert (gap <= allowed).all(), (
        f"{what}: {int((gap > allowed).sum())} pixels have a class that is not the best"
    )
