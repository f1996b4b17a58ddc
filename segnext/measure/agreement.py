"""Checks before every timing whether logits or labels are those of the oracle, up to rounding.

The oracle is the same network in plain PyTorch and float32. A variant that fails gets no number.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def logits_error(logits: Tensor, oracle: Tensor) -> float:
    """Return the largest error relative to the oracle's largest logit; it is NaN or infinite unless all are finite."""
    return ((logits.float() - oracle).abs().max() / oracle.abs().max()).item()


def worse_pixels(labels: Tensor, oracle: Tensor, tolerance: float) -> int:
    """Count the pixels whose class is worse than the oracle's best by more than the tolerance of two logits.

    Args:
        labels: (N, H, W) class ids.
        oracle: (N, K, h, w) logits, which are resized to (H, W).
        tolerance: allowed error of one logit, relative to the largest logit.
    """
    full = F.interpolate(oracle, labels.shape[1:], mode="bilinear", align_corners=False)
    gap = full.amax(1) - full.gather(1, labels.long()[:, None]).squeeze(1)
    allowed = 2 * tolerance * oracle.abs().max()
    return int((~((gap <= allowed) & allowed.isfinite())).sum())  # NaN and infinity are no agreement


def disagreement(output: Tensor, oracle: Tensor, tolerance: float) -> str:
    """Say what is wrong with logits (N, K, h, w) or labels (N, H, W); an empty text means that nothing is."""
    if output.ndim == 4:
        error = logits_error(output, oracle)
        if error <= tolerance:
            return ""
        return f"wrong: logits are off by {error:.1e} of the largest one, allowed are {tolerance:.1e}"
    count = worse_pixels(output, oracle, tolerance)
    return f"wrong: {count} pixels have a class that is not the best" if count else ""
