"""A batch in parts has the gradients of the whole batch, if BatchNorm has frozen statistics."""

import pytest
import torch
from torch import Tensor

from segnext.ranks import Ranks
from segnext.training.gradients import Gradients
from segnext.training.parts import PartedGradients, expect_parts, labelled_weight, part_seed
from tests.training.runs import narrow

WEIGHTS = torch.tensor([0.5, 1.0, 3.0])


def _batch() -> tuple[Tensor, Tensor]:
    """Return four images of which the second half has few labelled pixels, and the last has none."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    labels = torch.randint(3, (4, 64, 64), generator=generator, dtype=torch.uint8)
    labels[2, 8:] = labels[3] = 255
    return images, labels


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("class_weight", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("reduction", ["mean", "mean_all"])
def test_the_parts_make_the_whole(parts, class_weight, reduction):
    # The NMF draws new bases in training mode; evaluation mode also freezes the batch norms.
    model = narrow().eval()
    images, labels = _batch()

    def loss(reduction: str):
        return lambda x, y: model(x, y, class_weight=class_weight, label_smoothing=0.1, reduction=reduction)

    expected = loss(reduction)(images, labels)
    expected.backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    parted = PartedGradients(model, Gradients(model, loss("mean_all")), parts, Ranks(), seed=0)
    factor = 1 / parts
    if reduction == "mean":
        factor = labels.numel() / parts / labelled_weight(labels, 255, class_weight)
    found = parted(images, labels, 0, factor)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    for parameter, gradient in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-5)


def test_labelled_pixels_count_as_their_classes():
    labels = torch.tensor([[[0, 1, 1, 2, 9, 9]]], dtype=torch.uint8)
    assert labelled_weight(labels, 9, None) == 4
    assert labelled_weight(labels, 9, WEIGHTS) == 0.5 + 1 + 1 + 3
    assert labelled_weight(labels, 0, None) == 5
    assert labelled_weight(torch.full((1, 2, 2), 255, dtype=torch.uint8), 255, WEIGHTS) == 0


def test_each_part_of_each_step_has_a_seed_of_its_own():
    seeds = {part_seed(seed, step, part) for seed in (0, 1) for step in range(9) for part in range(9)}
    assert len(seeds) == 2 * 9 * 9


def test_parts_are_equal_and_not_too_small():
    expect_parts(batch_size=8, crop=32, accumulate=2, ranks=2)
    expect_parts(batch_size=4, crop=64, accumulate=2, ranks=2)
    with pytest.raises(ValueError, match=r"multiple of 6 \(3 processes x accumulate 2\), got 8"):
        expect_parts(batch_size=8, crop=64, accumulate=2, ranks=3)
    with pytest.raises(ValueError, match="at least 8 .* for crops of up to 32 pixels, got 4"):
        expect_parts(batch_size=4, crop=32, accumulate=2, ranks=2)
