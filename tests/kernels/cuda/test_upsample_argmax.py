"""upsample_argmax's CUDA kernels on the emulator: every variant, dtype and phase, in every schedule."""

from __future__ import annotations

import pytest
import torch

from oracle.accuracy import assert_labels
from oracle.inputs import GPU_DTYPES, LAYOUTS
from segnext_kernels.ops.upsample_argmax import compiled
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import poisoned_view

dtypes = pytest.mark.parametrize("dtype", GPU_DTYPES.values(), ids=GPU_DTYPES)
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@dtypes
@layouts
@pytest.mark.parametrize(
    ("n", "classes", "source", "size"),
    [
        pytest.param(2, 19, (9, 5), (35, 40), id="four-tiles"),  # stores of 4 bytes, copies by element
        pytest.param(1, 16, (6, 8), (48, 64), id="copies-by-16-bytes"),  # and stores
        pytest.param(1, 19, (5, 4), (23, 21), id="stores-by-byte"),
        pytest.param(1, 3, (1, 2), (21, 90), id="cells-wider-than-a-warp"),
        pytest.param(1, 300, (2, 3), (7, 5), id="int32-labels"),
        pytest.param(1, 5, (8, 8), (8, 8), id="same-size"),
        pytest.param(3, 1, (1, 1), (4, 3), id="one-class-one-pixel"),
        pytest.param(1, 400, (9, 17), (9, 18), id="tiles-of-few-rows"),
        pytest.param(1, 40, (9, 11), (5, 4), id="direct"),
        pytest.param(1, 300, (9, 3), (5, 12), id="direct-int32-labels"),
        pytest.param(0, 7, (3, 3), (5, 5), id="no-image"),
    ],
)
def test_labels(
    emulator: Emulator,
    dtype: torch.dtype,
    layout: torch.memory_format,
    n: int,
    classes: int,
    source: tuple[int, int],
    size: tuple[int, int],
) -> None:
    logits = torch.randn(n, classes, *source).to(dtype).contiguous(memory_format=layout)
    assert_labels(emulator.run(compiled.KERNELS["cuda"].run, logits, list(size)), logits, size)


@dtypes
@layouts
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 6e4], ids=str)
def test_cells_beside_extreme_logits(
    emulator: Emulator, value: float, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    logits = torch.randn(1, 6, 5, 4).to(dtype).contiguous(memory_format=layout)
    logits[0, 2, 1, 1] = logits[0, 4, 4, 3] = value
    logits[0, :, 3, 0] = -value
    assert_labels(emulator.run(compiled.KERNELS["cuda"].run, logits, [17, 13]), logits, (17, 13))


def test_differences_that_overflow(emulator: Emulator) -> None:
    logits = torch.randn(1, 3, 4, 4)
    logits[0, 0, 1:3, 1], logits[0, 1, 1:3, 2], logits[0, 0, 1:3, 2] = 3e38, 3e38, -3e38
    assert_labels(emulator.run(compiled.KERNELS["cuda"].run, logits, [13, 14]), logits, (13, 14))


def test_cells_that_agree_and_cells_of_two_candidates(emulator: Emulator) -> None:
    logits = torch.full((1, 7, 12, 12), -9.0)
    logits[0, 2], logits[0, 5, :, 5:] = 1.0, 2.0
    assert_labels(emulator.run(compiled.KERNELS["cuda"].run, logits, [50, 61]), logits, (50, 61))


@layouts
@dtypes
def test_views(emulator: Emulator, dtype: torch.dtype, layout: torch.memory_format) -> None:
    logits = poisoned_view(torch.randn(2, 8, 5, 11).to(dtype).contiguous(memory_format=layout))
    assert_labels(emulator.run(compiled.KERNELS["cuda"].run, logits, [16, 33]), logits, (16, 33))


@pytest.mark.parametrize("limit", [227 * 1024, 64 * 1024], ids=["fits", "direct"])
def test_classes_beyond_the_easy_shared_memory(emulator: Emulator, limit: int) -> None:
    logits = torch.randn(1, 5000, 2, 2)
    emulator.device(shared_limit=limit)
    assert_labels(emulator.run(compiled.KERNELS["cuda"].run, logits, [3, 3]), logits, (3, 3))
