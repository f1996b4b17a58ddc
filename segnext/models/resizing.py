"""Brings the features of several stages to one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resized(features: Sequence[Tensor], align_corners: bool) -> list[Tensor]:
    """Return features [(N, C_i, H_i, W_i), ...] at the size of the first one, bilinearly; it stays as it is."""
    size = features[0].shape[2:]
    return [features[0]] + [
        F.interpolate(feature, size=size, mode="bilinear", align_corners=align_corners)
        for feature in features[1:]
    ]
