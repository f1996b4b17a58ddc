"""The check before a timing accepts rounding and refuses another result."""

import pytest
import torch
import torch.nn.functional as F

from segnext.measure import agreement
from segnext.measure.runtimes import label_map

ORACLE = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
LARGEST = ORACLE.abs().max().item()


def test_logits_up_to_rounding():
    assert agreement.disagreement(ORACLE + 0.9e-4 * LARGEST, ORACLE, 1e-4) == ""
    assert agreement.logits_error(ORACLE + 1e-2 * LARGEST, ORACLE) == pytest.approx(1e-2, rel=1e-3)
    words = agreement.disagreement(ORACLE + 1e-2 * LARGEST, ORACLE, 1e-4)
    assert words == "wrong: logits are off by 1.0e-02 of the largest one, allowed are 1.0e-04"
    assert agreement.disagreement(ORACLE.bfloat16(), ORACLE, 1e-2) == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_never_agrees(value):
    broken = ORACLE.clone()
    broken[0, 0, 0, 0] = value
    assert agreement.disagreement(broken, ORACLE, 1e-4).startswith("wrong: logits")
    assert agreement.disagreement(ORACLE, broken, 1e-4).startswith("wrong: logits")
    assert agreement.disagreement(label_map(ORACLE, (48, 56)), broken, 1e-4).startswith("wrong: ")
    assert agreement.disagreement(torch.zeros_like(ORACLE), torch.zeros_like(ORACLE), 1e-4) != ""


@pytest.mark.parametrize("axis", [1, -1])
def test_labels_are_the_best_class_or_as_good(axis):
    labels = label_map(ORACLE, (48, 56), axis)
    assert labels.shape == (2, 48, 56)
    assert agreement.disagreement(labels.to(torch.uint8), ORACLE, 1e-4) == ""
    wrong = labels.clone()
    wrong[1, 3, :2] = (wrong[1, 3, :2] + 1) % 5
    assert agreement.worse_pixels(wrong, ORACLE, 1e-4) == 2
    assert agreement.disagreement(wrong, ORACLE, 1e-4) == "wrong: 2 pixels have a class that is not the best"
    assert agreement.worse_pixels(wrong, ORACLE, 1.0) == 0


def test_both_formulations_are_one_label_map():
    full = F.interpolate(ORACLE, (48, 56), mode="bilinear", align_corners=False)
    assert torch.equal(label_map(ORACLE, (48, 56)), full.argmax(1))
    assert torch.equal(label_map(ORACLE, (48, 56), -1), full.argmax(1))
