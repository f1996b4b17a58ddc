"""Tests upsample_argmax's CUDA kernels on the emulator: extreme logits, candidates of cells, many classes."""

from __future__ import annotations

import pytest
import torch

from oracle.accuracy import assert_labels
from oracle.inputs import GPU_DTYPES, LAYOUTS
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import kernel

dtypes = pytest.mark.parametrize("dtype", GPU_DTYPES.values(), ids=GPU_DTYPES)
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@dtypes
@layouts
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 6e4], ids=str)
def test_cells_beside_extreme_logits(
    emulator: Emulator, value: float, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    logits = torch.randn(1, 6, 5, 4).to(dtype).contiguous(memory_format=layout)
    logits[0, 2, 1, 1] = logits[0, 4, 4, 3] = value
    logits[0, :, 3, 0] = -value
    assert_labels(emulator.run(kernel("upsample_argmax"), logits, [17, 13]), logits, (17, 13))


def test_differences_that_overflow(emulator: Emulator) -> None:
    logits = torch.randn(1, 3, 4, 4)
    logits[0, 0, 1:3, 1], logits[0, 1, 1:3, 2], logits[0, 0, 1:3, 2] = 3e38, 3e38, -3e38
    assert_labels(emulator.run(kernel("upsample_argmax"), logits, [13, 14]), logits, (13, 14))


def test_cells_that_agree_and_cells_of_two_candidates(emulator: Emulator) -> None:
    logits = torch.full((1, 7, 12, 12), -9.0)
    logits[0, 2], logits[0, 5, :, 5:] = 1.0, 2.0
    assert_labels(emulator.run(kernel("upsample_argmax"), logits, [50, 61]), logits, (50, 61))


@pytest.mark.parametrize("limit", [227 * 1024, 64 * 1024], ids=["fits", "direct"])
def test_classes_beyond_the_easy_shared_memory(emulator: Emulator, limit: int) -> None:
    logits = torch.randn(1, 5000, 2, 2)
    emulator.device(shared_limit=limit)
    assert_labels(emulator.run(kernel("upsample_argmax"), logits, [3, 3]), logits, (3, 3))
