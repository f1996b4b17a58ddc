"""Tests upsample_cross_entropy in Triton: a label that is no class gives NaN in loss and gradient, and no error."""

from __future__ import annotations

import pytest
import torch

from segnext_kernels import upsample_cross_entropy, use_backend


@pytest.mark.parametrize("reduction", ["mean", "mean_all"])
@pytest.mark.parametrize("label", [-1, 6, 2**40])
def test_nan(label: int, reduction: str) -> None:
    logits = torch.randn(1, 6, 2, 3, requires_grad=True)
    target = torch.randint(6, (1, 5, 7))
    with use_backend("triton"):
        assert upsample_cross_entropy(logits, target, reduction=reduction).isfinite()
        target[0, 2, 3] = label
        loss = upsample_cross_entropy(logits, target, reduction=reduction)
        loss.backward()
        assert loss.isnan() and logits.grad is not None and logits.grad.isnan().any()
        ignored = upsample_cross_entropy(logits, target, ignore_index=label, reduction=reduction)
        assert ignored.isfinite()
