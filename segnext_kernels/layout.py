"""Memory formats: which one an op's output takes, and plain accumulators."""

from __future__ import annotations

import torch


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """The format of an op's output: channels_last where channels are innermost, else contiguous.

    Strided views count by their innermost axis; where both hold (one channel, one pixel) contiguous wins.
    """
    if x.is_contiguous():
        return torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last) or (x.stride(1) == 1 and x.shape[1] > 1):
        return torch.channels_last
    return torch.contiguous_format


def as_format_of(tensor: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``tensor`` in the output format of ``x``, copied only where it differs."""
    return tensor.contiguous(memory_format=memory_format(x))


def empty_like(x: torch.Tensor, channels: int | None = None) -> torch.Tensor:
    """Uninitialised (N, channels or C, H, W) in x's dtype and output format."""
    n, c, h, w = x.shape
    return torch.empty(
        (n, channels or c, h, w), dtype=x.dtype, device=x.device, memory_format=memory_format(x)
    )


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
