"""upsample_argmax's CUDA kernels on the emulator: every variant, dtype and branch, in every schedule."""

from __future__ import annotations

import pytest
import torch

from segnext_kernels.ops.upsample_argmax.op import _cuda
from tests.accuracy import assert_labels
from tests.cuda_emulator.emulation import Emulator

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@dtypes
@layouts
@pytest.mark.parametrize(
    ("n", "classes", "source", "size"),
    [
        pytest.param(2, 19, (9, 5), (23, 22), id="pruned-two-tiles"),
        pytest.param(1, 300, (2, 3), (7, 5), id="pruned-int32-labels"),
        pytest.param(1, 5, (8, 8), (8, 8), id="pruned-same-size"),
        pytest.param(3, 1, (1, 1), (4, 3), id="pruned-one-class-one-pixel"),
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
    assert_labels(emulator.run(_cuda, logits, list(size)), logits, size)
