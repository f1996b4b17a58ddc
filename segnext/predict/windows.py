"""Averages the logits of overlapping windows, in the memory of one row of windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segnext.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class View:
    """What the network sees of images; pixels are normalised where it looks, so that they stay 8-bit in memory.

    Attributes:
        pixels: (N, 3, h, w) uint8, resized and mirrored.
        size: height and width, at least (h, w); what the pixels lack is 0 after the normalisation.
        preprocessing: normalises.
    """

    pixels: Tensor
    size: tuple[int, int]
    preprocessing: Preprocessing

    def window(self, top: int, left: int, rows: int, columns: int) -> Tensor:
        """Return a part of the network's input, (N, 3, rows, columns) float32."""
        part = self.preprocessing(self.pixels[:, :, top : top + rows, left : left + columns])
        missing = (columns - part.shape[3], rows - part.shape[2])
        return F.pad(part, (0, missing[0], 0, missing[1])) if any(missing) else part


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Return where the windows of one direction begin: every `stride`; the last is moved back to end at the edge."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - crop), 0) for index in range(count)]


def sliding_logits(
    network: Callable[[Tensor], Tensor],
    view: View,
    crop: int,
    stride: int,
    batch: int,
    align_corners: bool = False,
) -> Iterator[Tensor]:
    """Yield the logits, averaged over all windows that see a pixel, as bands of rows from top to bottom.

    Only the rows that later windows still reach are kept: crop * W * K numbers instead of H * W * K.

    Args:
        network: (N, C, h, w) to float32 logits (N, K, any size), which are resized to the window.
        view: N images of H x W.
        crop: side of a window in pixels; a shorter side of the image is not split.
        stride: step between windows, at most `crop`.
        batch: windows that run through the network together.
        align_corners: how logits are resized to the window.

    Returns:
        Bands (N, K, rows, W); their concatenation over rows is (N, K, H, W). Each is valid until the next one is
        asked for.
    """
    count, device = len(view.pixels), view.pixels.device
    height, width = view.size
    rows, columns = min(crop, height), min(crop, width)
    tops, lefts = window_starts(height, crop, stride), window_starts(width, crop, stride)
    row_counts = _coverage(height, tops, rows, device)
    column_counts = _coverage(width, lefts, columns, device)
    sums: Tensor | None = None
    for top, bottom in zip(tops, [*tops[1:], height], strict=True):
        for first in range(0, len(lefts), batch):
            chunk = lefts[first : first + batch]
            windows = torch.cat([view.window(top, left, rows, columns) for left in chunk])
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
        yield sums[:, :, :finished].div_(row_counts[top:bottom, None] * column_counts)
        sums[:, :, : rows - finished] = sums[:, :, finished:].clone()
        sums[:, :, rows - finished :] = 0


def _coverage(length: int, starts: list[int], extent: int, device: torch.device) -> Tensor:
    """Return how many windows cover each position."""
    count = torch.zeros(length, device=device)
    for start in starts:
        count[start : start + extent] += 1
    return count
