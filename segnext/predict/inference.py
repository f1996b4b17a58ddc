"""From a normalised image to scores and label maps: whole, in sliding windows, at several scales, mirrored.

The protocols are those of the published results (docs/model.md, section 5.3). Tensors in, tensors out;
`segnext.predict.predictor` adds files, colours and drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# ADE20K is evaluated with images that fit into (2048, 512): no side above four times the short one.
LONGEST_RATIO = 4


class Network(Protocol):
    """What segments: a `segnext.models.SegNeXt` in evaluation mode, or a `segnext.deployment.model.DeployedSegNeXt`."""

    training: bool

    def forward_logits(self, images: Tensor, /) -> Tensor:
        """Logits (N, K, ceil(H/8), ceil(W/8))."""

    def predict(self, images: Tensor, size: tuple[int, int] | None = None, /) -> Tensor:
        """Class ids (N, height, width)."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How an image goes through the network.

    Attributes:
        mode: ``"whole"``, or ``"slide"``: overlapping windows whose logits are averaged.
        crop: side of a window in pixels; an image that is smaller in one direction is not cut in it.
        stride: step between windows, at most `crop`; None: three quarters of it (Cityscapes: 1024 and 768).
        scales: the image is also seen at these multiples of its size; softmax probabilities are averaged.
        flip: each scale is also seen mirrored.
        short_side: images are first resized so that their short side has this many pixels, and the long side
            at most four times as many (ADE20K: 512); None: native size. Results keep the native size.
        size_divisor: sides are then rounded up to a multiple of it by resizing (published numbers: 32).
        batch: windows that run through the network together.
    """

    mode: str = "whole"
    crop: int = 1024
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    short_side: int | None = None
    size_divisor: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if self.stride is None:
            object.__setattr__(self, "stride", max(1, 3 * self.crop // 4))
        assert self.stride is not None
        self._expect("mode", self.mode in ("whole", "slide"), "'whole' or 'slide'")
        self._expect("crop", self.crop >= 1, "at least 1 pixel")
        self._expect("stride", 1 <= self.stride <= self.crop, f"from 1 to the crop, {self.crop}")
        valid = bool(self.scales) and all(scale > 0 and math.isfinite(scale) for scale in self.scales)
        self._expect("scales", valid, "positive numbers, at least one")
        self._expect(
            "short_side", self.short_side is None or self.short_side >= 1, "at least 1 pixel, or None"
        )
        self._expect(
            "size_divisor", self.size_divisor is None or self.size_divisor >= 1, "at least 1, or None"
        )
        self._expect("batch", self.batch >= 1, "at least 1")

    def _expect(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"predict: {name} must be {expected}, got {getattr(self, name)!r}")

    @property
    def views(self) -> int:
        """How many times the network sees each image."""
        return len(self.scales) * (2 if self.flip else 1)

    def view_size(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Height and width at which the network sees an image of height x width at `scale`."""
        if self.short_side is not None:
            short, long = min(height, width), max(height, width)
            scale *= min(self.short_side / short, LONGEST_RATIO * self.short_side / long)
        divisor = self.size_divisor or 1
        rows, columns = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return -(-rows // divisor) * divisor, -(-columns // divisor) * divisor


@torch.no_grad()
def predict_logits(
    model: Network, images: Tensor, size: tuple[int, int] | None = None, inference: Inference | None = None
) -> Tensor:
    """Scores of every class at every pixel; their argmax is the label map.

    Logits for one view; averaged softmax probabilities for several (scales, flip).

    Args:
        model: in evaluation mode.
        images: (N, C, H, W) normalised images on the model's device.
        size: height and width of the result; the images' by default.
        inference: the protocol; the whole image once by default.

    Returns:
        (N, K, height, width) float32.

    Raises:
        RuntimeError: the model is in training mode.
    """
    inference = inference or Inference()
    _check_evaluation(model)
    height, width = images.shape[2:]
    size = size or (height, width)
    total: Tensor | None = None
    for scale in inference.scales:
        seen = _resize(images, inference.view_size(height, width, scale))
        for mirrored in (False, True) if inference.flip else (False,):
            view = seen.flip(3) if mirrored else seen
            if inference.mode == "slide":
                logits = torch.cat([rows for _, _, rows in _bands(model, view, inference)], dim=2)
            else:
                logits = _network(model, view)
            logits = _resize(logits.flip(3) if mirrored else logits, size)
            scores = logits.softmax(1) if inference.views > 1 else logits
            total = scores if total is None else total.add_(scores)
    assert total is not None  # there is at least one scale
    return total.div_(inference.views) if inference.views > 1 else total


@torch.no_grad()
def predict_mask(
    model: Network, images: Tensor, size: tuple[int, int] | None = None, inference: Inference | None = None
) -> Tensor:
    """The most likely class of every pixel: the argmax of `predict_logits`, in less memory.

    The whole image seen once never has full-size logits (fused resize and argmax); sliding windows hold those
    of one row of windows. Several scales, or a mirrored view, hold them all.

    Args:
        model: in evaluation mode.
        images: (N, C, H, W) normalised images on the model's device.
        size: height and width of the result; the images' by default.
        inference: the protocol; the whole image once by default.

    Returns:
        (N, height, width) class ids, uint8 up to 256 classes, else int32.

    Raises:
        RuntimeError: the model is in training mode.
    """
    inference = inference or Inference()
    _check_evaluation(model)
    height, width = images.shape[2:]
    size = size or (height, width)
    seen = inference.view_size(height, width, inference.scales[0])
    if inference.views == 1 and inference.mode == "whole":
        return model.predict(_resize(images, seen), size)
    if inference.views == 1 and seen == tuple(size):
        return torch.cat(
            [_ids(rows) for _, _, rows in _bands(model, _resize(images, seen), inference)], dim=1
        )
    return _ids(predict_logits(model, images, size, inference))


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Where the windows of one direction begin: every `stride`, the last moved back to end at the edge."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - crop), 0) for index in range(count)]


def _bands(model: Network, images: Tensor, inference: Inference) -> Iterator[tuple[int, int, Tensor]]:
    """Averaged logits of sliding windows as bands (top, bottom, (N, K, bottom - top, W)), from top to bottom.

    Only the rows that later windows still reach are kept: crop * W * K numbers instead of H * W * K.
    """
    crop, stride = inference.crop, inference.stride
    assert stride is not None
    images_count, _, height, width = images.shape
    rows, columns = min(crop, height), min(crop, width)
    tops, lefts = window_starts(height, crop, stride), window_starts(width, crop, stride)
    covered_rows = _coverage(height, tops, rows, images.device)
    covered_columns = _coverage(width, lefts, columns, images.device)
    sums: Tensor | None = None
    for top, bottom in zip(tops, [*tops[1:], height], strict=True):
        for first in range(0, len(lefts), inference.batch):
            chunk = lefts[first : first + inference.batch]
            windows = torch.cat([images[:, :, top : top + rows, left : left + columns] for left in chunk])
            all_logits = _network(model, windows)
            if sums is None:
                sums = all_logits.new_zeros(images_count, all_logits.shape[1], rows, width)
            for left, logits in zip(chunk, all_logits.split(images_count), strict=True):
                sums[:, :, :, left : left + columns] += _resize(logits, (rows, columns))
        assert sums is not None
        finished = bottom - top
        yield top, bottom, sums[:, :, :finished] / (covered_rows[top:bottom, None] * covered_columns)
        sums[:, :, : rows - finished] = sums[:, :, finished:].clone()
        sums[:, :, rows - finished :] = 0


def _coverage(length: int, starts: list[int], extent: int, device: torch.device) -> Tensor:
    """How many windows cover each position."""
    count = torch.zeros(length, device=device)
    for start in starts:
        count[start : start + extent] += 1
    return count


def _network(model: Network, images: Tensor) -> Tensor:
    with torch.inference_mode():
        logits = model.forward_logits(images)
    return logits.float()


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    # Without antialiasing, as the images of the published protocols are resized.
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _ids(scores: Tensor) -> Tensor:
    return scores.argmax(1).to(torch.uint8 if scores.shape[1] <= 256 else torch.int32)


def _check_evaluation(model: Network) -> None:
    if model.training:
        raise RuntimeError(
            "predict: the model must be in evaluation mode, got training mode; call model.eval() first"
        )
