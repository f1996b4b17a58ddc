"""Gives the time below which no kernel of an op runs on an H200, by memory, float32 arithmetic or exponentials."""

from __future__ import annotations

from bench.issue_model import costs

# Warp instructions per second of all multiprocessors. One instruction per element is 1/32 of a warp instruction.
ISSUE = costs.PARTITIONS * costs.MULTIPROCESSORS * costs.CLOCK
SPECIAL = costs.RATES["special"] * costs.MULTIPROCESSORS * costs.CLOCK

# Seconds per element outside of the tensor cores, for the arithmetic of the definition alone.
FORWARD = {
    "msca_conv": 3.07e-12,  # 206 FLOP at 67 TFLOP/s
    "dwconv_gelu": 23 / 32 / ISSUE,  # 9 multiply-adds and a GELU of 14 instructions
    "conv_ffn": 23 / 32 / ISSUE,  # per hidden element
    "upsample_cross_entropy": 1 / 32 / SPECIAL,  # an exponential for each class and pixel
}
BACKWARD = {
    "msca_conv": 9e-12,  # recomputed, gradients of x and of the weights
    "dwconv_gelu": 46 / 32 / ISSUE,
    "upsample_cross_entropy": 1 / 32 / SPECIAL,
}


def floor(op: str, direction: str, elements: int, minimum: int) -> float:
    """Return the seconds of memory at copy speed, or of the arithmetic if that is known to take longer."""
    arithmetic = (FORWARD if direction == "forward" else BACKWARD).get(op, 0.0) * elements
    return max(minimum / costs.MEMORY_BYTES, arithmetic)
