"""What logits mean: one per class, or the one logit of a model of two classes with a threshold."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def two_logits(logits: Tensor, threshold: float | None) -> Tensor:
    """Return (N, 2, H, W), whose argmax is 1 exactly where the sigmoid of the one logit is above the threshold.

    Without a threshold the logits stay as they are.
    """
    if threshold is None:
        return logits
    border = torch.full_like(logits, math.log(threshold / (1 - threshold)))
    return torch.cat([border, logits], 1)


def class_logits(logits: Tensor, threshold: float | None) -> Tensor:
    """Return (N, 2, H, W), whose softmax is the sigmoid of the one logit and its complement.

    Their cross-entropy is the binary one. Without a threshold the logits stay as they are.
    """
    return logits if threshold is None else two_logits(logits, 0.5)
