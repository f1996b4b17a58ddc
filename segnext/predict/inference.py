"""Turns normalised images into scores and label maps: whole, in sliding windows, at several scales, mirrored.

The protocols are those of the published results (docs/model.md, section 5.3). This module takes and gives tensors;
`segnext.predict.predictor` adds files, `segnext.predict.prediction` colours and drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from segnext.data.preprocessing import short_side_scale
from segnext.models.config import SegNeXtConfig
from segnext.models.labels import class_logits, two_logits
from segnext.predict.windows import sliding_logits


class Network(Protocol):
    """A `segnext.models.SegNeXt` in evaluation mode, or a `segnext.deployment.model.DeployedSegNeXt`."""

    training: bool
    config: SegNeXtConfig

    def forward_logits(self, images: Tensor, /) -> Tensor:
        """Logits (N, ``config.logits``, ceil(H/8), ceil(W/8))."""

    def predict(self, images: Tensor, size: tuple[int, int] | None = None, /) -> Tensor:
        """Class ids (N, height, width)."""

    def expect_finite(self, logits: Tensor, /) -> None:
        """Raise a `segnext.models.finite.NonFiniteError` unless all logits are finite."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How an image goes through the network.

    Attributes:
        mode: ``"whole"``, or ``"slide"``: overlapping windows whose logits are averaged.
        crop: side of a window in pixels; a side of the image that is shorter is not split.
        stride: step between windows, at most `crop`; None: three quarters of it (Cityscapes: 1024 and 768).
        scales: the image is also seen at these multiples of its size; softmax probabilities are averaged.
        flip: each scale is also seen mirrored.
        short_side: images are first resized so that their short side has this many pixels, and the long side
            at most four times as many (ADE20K: 512); 0: native size; None: as the weights say (`for_weights`),
            and native size without `for_weights`. Results keep the native size.
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
            "short_side",
            self.short_side is None or self.short_side >= 0,
            "at least 1 pixel, 0 for native size, or None",
        )
        self._expect(
            "size_divisor", self.size_divisor is None or self.size_divisor >= 1, "at least 1, or None"
        )
        self._expect("batch", self.batch >= 1, "at least 1")

    def _expect(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"inference: {name} must be {expected}, got {getattr(self, name)!r}")

    def for_weights(self, short_side: int | None) -> Inference:
        """Return this protocol with the short side that the weights were trained for, unless it has one already."""
        return self if self.short_side is not None else replace(self, short_side=short_side)

    @property
    def views(self) -> int:
        """How many times the network sees each image."""
        return len(self.scales) * (2 if self.flip else 1)

    def view_size(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Return height and width at which the network sees an image of height x width at `scale`."""
        if self.short_side:
            scale *= short_side_scale(height, width, self.short_side)
        divisor = self.size_divisor or 1
        rows, columns = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return -(-rows // divisor) * divisor, -(-columns // divisor) * divisor


@torch.no_grad()
def predict_logits(
    model: Network, images: Tensor, size: tuple[int, int] | None = None, inference: Inference | None = None
) -> Tensor:
    """Return the scores of every class at every pixel; their argmax is the label map.

    They are logits for one view, and averaged softmax probabilities for several (scales, flip). A model with a
    threshold has scores of both its classes; of its probabilities, class 1 wins above the threshold instead.

    Args:
        model: in evaluation mode.
        images: (N, C, H, W) normalised images on the model's device.
        size: height and width of the result; the images' by default.
        inference: the protocol; the whole image once by default.

    Returns:
        (N, K, height, width) float32.

    Raises:
        RuntimeError: the model is in training mode. NonFiniteError: there are NaN or Inf among the logits.
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
                logits = torch.cat(list(_sliding_logits(model, view, inference)), dim=2)
            else:
                logits = _logits(model, view)
            logits = _resize(logits.flip(3) if mirrored else logits, size, model.config.align_corners)
            several, threshold = inference.views > 1, model.config.threshold
            scores = class_logits(logits, threshold).softmax(1) if several else two_logits(logits, threshold)
            total = scores if total is None else total.add_(scores)
    assert total is not None  # there is at least one scale
    return total.div_(inference.views) if inference.views > 1 else total


@torch.no_grad()
def predict_mask(
    model: Network, images: Tensor, size: tuple[int, int] | None = None, inference: Inference | None = None
) -> Tensor:
    """Return the most likely class of every pixel: the argmax of `predict_logits`, in less memory.

    If the whole image is seen once, no full-size logits exist (fused resize and argmax). Sliding windows at the
    result's size hold those of one row of windows. Other sizes, several scales and mirrored views hold them all.

    Args:
        model: in evaluation mode.
        images: (N, C, H, W) normalised images on the model's device.
        size: height and width of the result; the images' by default.
        inference: the protocol; the whole image once by default.

    Returns:
        (N, height, width) class ids, uint8 up to 256 classes, else int32.

    Raises:
        RuntimeError: the model is in training mode. NonFiniteError: there are NaN or Inf among the logits.
    """
    inference = inference or Inference()
    _check_evaluation(model)
    height, width = images.shape[2:]
    size = size or (height, width)
    seen = inference.view_size(height, width, inference.scales[0])
    if inference.views == 1 and inference.mode == "whole":
        return model.predict(_resize(images, seen), size)
    if inference.views == 1 and seen == tuple(size):
        bands = _sliding_logits(model, _resize(images, seen), inference)
        return torch.cat([_ids(two_logits(rows, model.config.threshold)) for rows in bands], dim=1)
    scores = predict_logits(model, images, size, inference)
    if inference.views > 1 and model.config.threshold is not None:
        return (scores[:, 1] > model.config.threshold).to(torch.uint8)
    return _ids(scores)


def _sliding_logits(model: Network, images: Tensor, inference: Inference) -> Iterator[Tensor]:
    assert inference.stride is not None  # set when `inference` was made
    network, align_corners = partial(_logits, model), model.config.align_corners
    return sliding_logits(network, images, inference.crop, inference.stride, inference.batch, align_corners)


def _logits(model: Network, images: Tensor) -> Tensor:
    with torch.inference_mode():
        logits = model.forward_logits(images)
        model.expect_finite(logits)
    return logits.float()


def _resize(images: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    # There is no antialiasing, because the published protocols resize images without it.
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=align_corners)


def _ids(scores: Tensor) -> Tensor:
    return scores.argmax(1).to(torch.uint8 if scores.shape[1] <= 256 else torch.int32)


def _check_evaluation(model: Network) -> None:
    if model.training:
        raise RuntimeError(
            "inference: the model must be in evaluation mode, got training mode; call model.eval() first"
        )
