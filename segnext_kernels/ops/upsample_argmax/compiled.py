"""upsample_argmax: how its compiled kernels are called."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks, native
from segnext_kernels.kernel import WITHOUT_ALIGNED_CORNERS
from segnext_kernels.ops.upsample_argmax.reference import empty_labels


def _forward(call: Any, logits: torch.Tensor, size: list[int], align_corners: bool = False) -> torch.Tensor:
    labels = empty_labels(logits, size)
    call(
        "upsample_argmax", logits, logits.data_ptr(), logits.dtype, logits.shape, logits.stride(),
        labels.data_ptr(), tuple(size),
    )  # fmt: skip
    return labels


def aligned(logits: torch.Tensor, size: list[int], align_corners: bool = False) -> str | None:
    """Why no fused kernel takes these arguments."""
    return WITHOUT_ALIGNED_CORNERS if align_corners else None


KERNELS = native.both(
    _forward, on_cuda={"refuses": aligned}, on_cpu={"dtypes": checks.FLOATING, "refuses": aligned}
)
