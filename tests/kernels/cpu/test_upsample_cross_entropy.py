"""Tests where terms of the loss's gradient cancel: what is left must be small, not the rounding of the terms."""

from __future__ import annotations

import pytest
import torch

from oracle.accuracy import assert_gradient_accurate
from segnext_kernels import native, upsample_cross_entropy

pytestmark = pytest.mark.skipif(native._C is None, reason="the compiled library is missing")


@pytest.mark.usefixtures("instruction_set")
def test_one_class_has_no_gradient() -> None:
    logits = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.zeros(2, 33, 27, dtype=torch.int64)
    loss = upsample_cross_entropy(logits, target, class_weight=torch.tensor([0.7]), label_smoothing=0.1)
    loss.backward()
    assert logits.grad is not None and not logits.grad.any()


def test_the_mean_in_float64_is_exact_to_a_few_units() -> None:
    """Adding thousands of weights in one chain scaled the whole gradient by up to 70 units."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 11, 10, 7, dtype=torch.float64, generator=generator)
    target = torch.randint(11, (2, 37, 26), generator=generator)
    weight = torch.rand(11, dtype=torch.float64, generator=generator) + 0.5

    def gradients(dtype: torch.dtype, ours: bool) -> torch.Tensor:
        x = logits.to(dtype).requires_grad_()
        if ours:
            loss = upsample_cross_entropy(x, target, class_weight=weight.to(dtype))
        else:
            full = torch.nn.functional.interpolate(x, size=target.shape[1:], mode="bilinear")
            loss = torch.nn.functional.cross_entropy(full, target, weight.to(dtype))
        return torch.autograd.grad(loss, x)[0]

    oracle = gradients(torch.float64, ours=False)
    ours = gradients(torch.float64, ours=True)
    assert_gradient_accurate(ours, oracle, oracle, gradients(torch.float32, ours=False))
    scale = ((ours - oracle) * oracle.sign()).mean() / oracle.abs().mean()
    assert abs(scale.item()) < 8 * torch.finfo(torch.float64).eps
