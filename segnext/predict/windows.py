"""Averages the logits of overlapping windows, in the memory of one row of windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Return where the windows of one direction begin: every `stride`; the last is moved back to end at the edge."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - crop), 0) for index in range(count)]


def sliding_logits(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    crop: int,
    stride: int,
    batch: int,
    align_corners: bool = False,
) -> Iterator[Tensor]:
    """Yield the logits, averaged over all windows that see a pixel, as bands of rows from top to bottom.

    Only the rows that later windows still reach are kept: crop * W * K numbers instead of H * W * K.

    Args:
        network: (N, C, h, w) to float32 logits (N, K, any size), which are resized to the window.
        images: (N, C, H, W).
        crop: side of a window in pixels; a shorter side of the image is not split.
        stride: step between windows, at most `crop`.
        batch: windows that run through the network together.
        align_corners: how logits are resized to the window.

    Returns:
        Bands (N, K, rows, W); their concatenation over rows is (N, K, H, W).
    """
    count, _, height, width = images.shape
    rows, columns = min(crop, height), min(crop, width)
    tops, lefts = window_starts(height, crop, stride), window_starts(width, crop, stride)
    row_counts = _coverage(height, tops, rows, images.device)
    column_counts = _coverage(width, lefts, columns, images.device)
    sums: Tensor | None = None
    for top, bottom in zip(tops, [*tops[1:], height], strict=True):
        for first in range(0, len(lefts), batch):
            chunk = lefts[first : first + batch]
            windows = torch.cat([images[:, :, top : top + rows, left : left + columns] for left in chunk])
            all_logits = network(windows)
            if sums is None:
                sums = all_logits.new_zeros(count, all_logits.shape[1], rows, width)
            for left, logits in zip(chunk, all_logits.split(count), strict=True):
                resized = F.interpolate(
                    logits, size=(rows, columns), mode="bilinear", align_corners=align_corners
                )
                sums[:, :, :, left : left + columns] += resized
        assert sums is not None  # there is at least one window in a row
        finished = bottom - top
        yield sums[:, :, :finished] / (row_counts[top:bottom, None] * column_counts)
        sums[:, :, : rows - finished] = sums[:, :, finished:].clone()
        sums[:, :, rows - finished :] = 0


def _coverage(length: int, starts: list[int], extent: int, device: torch.device) -> Tensor:
    """Return how many windows cover each position."""
    count = torch.zeros(length, device=device)
    for start in starts:
        count[start : start + extent] += 1
    return count
