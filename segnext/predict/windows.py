"""Averages the logits of overlapping windows, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from segnext.data.preprocessing import Preprocessing

_BAND = 1 << 23  # numbers of a band at full size, 32 MB


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

    Windows are kept as small as the network's logits are, while a later row still needs them. The rows of a band are
    resized and averaged first, all windows of one row side by side, and then its columns. So each number at full size
    is computed once, and 32 MB of them are there at a time, whatever K is. The small logits of the windows that see a
    row are about K * W * crop / 64 * (crop / stride)^2 numbers.

    Args:
        network: (N, C, h, w) to float32 logits (N, K, any size), which are resized to the window.
        view: N images of H x W, of which the pixels are the upper left part.
        crop: side of a window in pixels; a shorter side of the image is not split.
        stride: step between windows, at most `crop`.
        batch: windows that run through the network together.
        align_corners: how logits are resized to the window.

    Returns:
        Bands (N, K, rows, columns of the pixels), channels_last; together they have the rows of the pixels. Each is
        valid until the next one is asked for.
    """
    shown_rows, shown_columns = view.pixels.shape[2:]
    rows, columns = (min(crop, side) for side in view.size)
    tops, lefts = (window_starts(side, crop, stride) for side in view.size)
    coverage = _coverage(view.size[1], lefts, columns, view.pixels.device)
    # Between two neighbours of these, every row is seen by the same windows.
    edges = {edge for top in tops for edge in (top, top + rows) if edge < shown_rows} | {shown_rows}
    seeing: dict[int, Tensor] = {}
    sums: Tensor | None = None
    for upper, lower in pairwise(sorted(edges)):
        seeing = {top: logits for top, logits in seeing.items() if top + rows > upper}
        if upper in tops:
            seeing[upper] = _row_of_windows(network, view, upper, lefts, (rows, columns), batch)
        if sums is None:
            size = (rows, view.size[1])
            sums = _band(len(view.pixels), seeing[upper].shape[1], size, view.pixels.device)
        step = sums.shape[2]
        for first in range(upper, lower, step):
            last = min(first + step, lower)
            total = sum(
                resized_rows(logits, first - top, last - top, rows, align_corners)
                for top, logits in seeing.items()
            )
            assert isinstance(total, Tensor)  # every row is seen by a window
            band = sums[:, :, : last - first].zero_()
            _add_columns(band, total.div_(len(seeing)), lefts, columns, align_corners)
            yield band.div_(coverage)[..., :shown_columns]


def band_rows(numbers: int) -> int:
    """Return how many rows of so many numbers each a band has."""
    return max(1, _BAND // max(1, numbers))


def _band(count: int, classes: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return room for a band of at most `size`, channels_last: there, argmax takes an eighth of the time."""
    shape = (count, classes, min(band_rows(count * classes * size[1]), size[0]), size[1])
    return torch.empty(shape, device=device, memory_format=torch.channels_last)


def _row_of_windows(
    network: Callable[[Tensor], Tensor],
    view: View,
    top: int,
    lefts: list[int],
    size: tuple[int, int],
    batch: int,
) -> Tensor:
    """Return the logits of the windows that begin in row `top`, side by side: (N, K, h, windows * w)."""
    count, row = len(view.pixels), None
    for first in range(0, len(lefts), batch):
        chunk = lefts[first : first + batch]
        logits = network(torch.cat([view.window(top, left, *size) for left in chunk]))
        width = logits.shape[3]
        if row is None:  # in place, for together the windows' own tensors would be a second copy
            shape = (count, *logits.shape[1:3], len(lefts) * width)
            row = torch.empty(shape, device=logits.device, memory_format=torch.channels_last)
        row[..., first * width : (first + len(chunk)) * width] = torch.cat(logits.split(count), 3)
    assert row is not None  # there is at least one window
    return row


def resized_rows(logits: Tensor, first: int, last: int, extent: int, align_corners: bool) -> Tensor:
    """Return the rows `first` to `last` of what F.interpolate makes of (N, K, h, w) for `extent` rows and w columns."""
    height = logits.shape[2]
    position = torch.arange(first, last, dtype=torch.float32, device=logits.device)
    if align_corners:
        position *= (height - 1) / max(extent - 1, 1)
    else:
        position = position.add_(0.5).mul_(height / extent).sub_(0.5).clamp_(0, height - 1)
    upper = position.long()
    share = (position - upper)[:, None]
    lower = (upper + 1).clamp_(max=height - 1)
    return logits.index_select(2, upper).mul_(1 - share) + logits.index_select(2, lower).mul_(share)


def _add_columns(sums: Tensor, logits: Tensor, lefts: list[int], columns: int, align_corners: bool) -> None:
    """Resize windows that lie side by side to `columns` each, and add them to `sums` where they belong.

    Args:
        sums: (N, K, rows, W), is changed.
        logits: (N, K, rows, windows * w).
        lefts: the column in which each window begins.
        columns: of each window.
        align_corners: how they are resized.
    """
    for left, part in zip(lefts, logits.chunk(len(lefts), 3), strict=True):
        small = part.contiguous(memory_format=torch.channels_last)
        size = (small.shape[2], columns)
        sums[..., left : left + columns] += F.interpolate(
            small, size=size, mode="bilinear", align_corners=align_corners
        )


def _coverage(length: int, starts: list[int], extent: int, device: torch.device) -> Tensor:
    """Return how many windows cover each position."""
    count = torch.zeros(length, device=device)
    for start in starts:
        count[start : start + extent] += 1
    return count
