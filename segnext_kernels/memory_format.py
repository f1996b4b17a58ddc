"""Memory formats: which one an op's output takes, and plain accumulators."""

from __future__ import annotations

import torch


def format_of(x: torch.Tensor) -> torch.memory_format:
    """The format of an op's output: channels_last where channels are innermost, else contiguous.

    Strided views count by their innermost axis; where both hold (one channel, one pixel) contiguous wins.
    """
    # channels_last with several channels implies the stride; a tensor inside torch.func.vmap tells only that
    if x.is_contiguous() or x.stride(1) != 1 or x.shape[1] == 1:
        return torch.contiguous_format
    return torch.channels_last


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether `format_of` says channels_last."""
    return format_of(x) == torch.channels_last


def has_inner_channels(x: torch.Tensor) -> bool:
    """Whether a pixel's channels lie side by side: in channels_last, with one pixel or channel, or without elements."""
    return x.numel() == 0 or x.shape[1] == 1 or x.stride(1) == 1


def as_format_of(tensor: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``tensor`` in the output format of ``x``, copied only where it differs."""
    return as_channels_last(tensor) if is_channels_last(x) else tensor.contiguous()


def as_channels_last(x: torch.Tensor) -> torch.Tensor:
    """``x`` in channels_last, copied only if it is not; also inside torch.func.vmap, where PyTorch refuses to."""
    if torch._C._are_functorch_transforms_active():
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def empty_like(x: torch.Tensor, channels: int | None = None) -> torch.Tensor:
    """Uninitialised (N, channels or C, H, W) in x's dtype and output format."""
    n, c, h, w = x.shape
    return torch.empty((n, channels or c, h, w), dtype=x.dtype, device=x.device, memory_format=format_of(x))


def has_inner_rows(x: torch.Tensor) -> bool:
    """Whether (B, D, N) matrices have D innermost, as the pixels of a channels_last image do.

    By the rule of `format_of`: strided views count by their innermost axis, contiguous wins.
    """
    return not x.is_contiguous() and (x.mT.is_contiguous() or (x.stride(1) == 1 and x.shape[1] > 1))


def empty_matrices_like(x: torch.Tensor, rows: int | None = None) -> torch.Tensor:
    """Uninitialised (B, rows or D, N), dense, with the innermost axis of x."""
    b, d, n = x.shape
    d = d if rows is None else rows
    return x.new_empty((b, n, d)).mT if has_inner_rows(x) else x.new_empty((b, d, n))


def as_order_of(matrices: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``matrices``, dense and with the innermost axis of x, copied only where they differ."""
    return matrices.mT.contiguous().mT if has_inner_rows(x) else matrices.contiguous()


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
