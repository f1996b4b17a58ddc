"""upsample_argmax in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def upsample_argmax(logits: torch.Tensor, size: list[int], align_corners: bool = False) -> torch.Tensor:
    full = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=align_corners)
    return full.argmax(1).to(label_dtype(logits.shape[1]))


def label_dtype(classes: int) -> torch.dtype:
    """One byte per label if that holds every class id."""
    return torch.uint8 if classes <= 256 else torch.int32


def empty_labels(logits: torch.Tensor, size: list[int], align_corners: bool = False) -> torch.Tensor:
    n, k = logits.shape[:2]
    return logits.new_empty((n, *size), dtype=label_dtype(k))
