"""Tests upsample_cross_entropy's CUDA kernels on the emulator: labels out of range, extreme logits, traffic."""

from __future__ import annotations

import pytest
import torch

from segnext_kernels.ops.upsample_cross_entropy import reference
from segnext_kernels.ops.upsample_cross_entropy.spec import SPEC
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import assert_right, kernel

GRAD = torch.tensor(0.7)


@pytest.mark.parametrize("reduction", ["mean", "mean_all"])
@pytest.mark.parametrize("label", [6, -1, 2**40])
def test_a_label_out_of_range_is_nan(emulator: Emulator, label: int, reduction: str) -> None:
    logits, target, *rest, _ = SPEC.samples[0].make(torch.float32)
    target[1, 3, 4] = label
    assert emulator.run(kernel("upsample_cross_entropy"), logits, target, *rest, reduction).isnan()
    assert (
        emulator.run(kernel("upsample_cross_entropy_backward"), GRAD, logits, target, *rest, reduction)
        .isnan()
        .any()
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_non_finite_logits(emulator: Emulator, value: float) -> None:
    logits, *rest = SPEC.samples[0].make(torch.float32)
    logits[0, 2, 3, 3] = value
    loss = emulator.run(kernel("upsample_cross_entropy"), logits, *rest)
    expected = reference.upsample_cross_entropy(logits, *rest)
    assert loss.isnan() == expected.isnan() and loss.isinf() == expected.isinf()
    gradient = emulator.run(kernel("upsample_cross_entropy_backward"), GRAD, logits, *rest)
    assert (
        gradient[1].isfinite().all()
        == reference.upsample_cross_entropy_backward(GRAD, logits, *rest)[1].isfinite().all()
    )


def test_corners_that_disagree_by_far(emulator: Emulator) -> None:
    """Inside a cell no class is near the largest of all corners, so pixels are computed one by one."""
    logits, *rest = SPEC.samples[0].make(torch.float32, n=1, k=2, h=2, w=3, size=(9, 9), smoothing=0.1)
    logits[0, :, 0, 0], logits[0, :, 0, 1] = torch.tensor([300.0, 0.0]), torch.tensor([0.0, 300.0])
    assert_right(emulator, SPEC, (logits, *rest))


def test_large_logits_do_not_overflow(emulator: Emulator) -> None:
    logits, *rest = SPEC.samples[0].make(torch.float32)
    assert_right(emulator, SPEC, (logits * 1000, *rest))


def test_traffic(emulator: Emulator) -> None:
    args = SPEC.samples[0].make(
        torch.bfloat16, layout=torch.channels_last, n=1, k=32, h=8, w=8, size=(64, 64)
    )
    with emulator.count() as traffic:
        kernel("upsample_cross_entropy_backward")(GRAD, *args)
    # a strip's gradients are written once and gathered once; columns of one class lie side by side
    strips = 8 * 17 * 32 * 8  # rows of cells, corners, classes, bytes
    assert traffic["store_global"]["touched"] <= (strips + args[0].numel() * 2) // 32 + 64
    for kind in ("load_shared", "store_shared"):
        assert traffic[kind]["units"] <= 1.5 * traffic[kind]["fewest"], (kind, traffic[kind])
