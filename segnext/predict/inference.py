"""Turns photographs into scores and label maps: whole, in sliding windows, at several scales, mirrored.

The protocols are those of the published results (docs/model.md, section 5.3). This module takes and gives tensors;
`segnext.predict.predictor` adds files, `segnext.predict.prediction` colours and drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from segnext.data.preprocessing import LARGEST_SHORT_SIDE, LONGEST_RATIO, Preprocessing, short_side_scale
from segnext.data.resizing import resize
from segnext.models import SegNeXt
from segnext.models.config import STRIDES, SegNeXtConfig
from segnext.models.labels import class_logits, two_logits
from segnext.predict.windows import View, band_rows, resized_rows, sliding_logits
from segnext_kernels import upsample_argmax

LARGEST_SCALE = 100.0  # a larger number is a mistake, and sizes that follow from it overflow

DIVISOR = 32
"""The published protocols give the network sides that are multiples of this, the stride of its last stage."""

ProtocolName = Literal["native", "official", "mmseg1"]


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
        protocol: how sizes are made. ``"native"``: one resize, if `short_side` or `scales` ask for any.
            ``"official"``: as the official code, a second resize rounds each side up to a multiple of 32, and
            logits are resized twice too. ``"mmseg1"``: as mmsegmentation 1.x, the normalised image is padded
            with 0 to a multiple of 32, and the logits are cut.
        mode: ``"whole"``, or ``"slide"``: overlapping windows whose logits are averaged. The memory of a mask then
            hardly grows with the number of classes, see `predict_mask`.
        crop: side of a window in pixels; a side of the image that is shorter is not split.
        stride: step between windows, at most `crop`; None: three quarters of it (Cityscapes: 1024 and 768).
        scales: the image is also seen at these multiples of its size; softmax probabilities are averaged.
        flip: each scale is also seen mirrored.
        short_side: images are first resized so that their short side has this many pixels, and the long side
            at most four times as many (ADE20K: 512); 0: native size; None: as the weights say (`for_weights`),
            and native size without `for_weights`. Results keep the native size.
        batch: windows that run through the network together.
    """

    protocol: ProtocolName = "native"
    mode: str = "whole"
    crop: int = 1024
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    short_side: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.scales, str) or not isinstance(self.scales, Iterable):
            self._expect("scales", False, "a tuple of numbers")
        object.__setattr__(self, "scales", tuple(self.scales))
        self._expect("crop", isinstance(self.crop, Integral), "a whole number of pixels")
        if self.stride is None:
            object.__setattr__(self, "stride", max(1, 3 * self.crop // 4))
        assert self.stride is not None
        names = get_args(ProtocolName)
        self._expect("protocol", self.protocol in names, f"one of {', '.join(names)}")
        self._expect("mode", self.mode in ("whole", "slide"), "'whole' or 'slide'")
        self._expect("crop", self.crop >= 1, "at least 1 pixel")
        whole = isinstance(self.stride, Integral)
        self._expect("stride", whole and 1 <= self.stride <= self.crop, f"from 1 to the crop, {self.crop}")
        valid = bool(self.scales) and all(0 < scale <= LARGEST_SCALE for scale in self.scales)
        self._expect("scales", valid, f"numbers above 0 and up to {LARGEST_SCALE:g}, at least one")
        self._expect("flip", isinstance(self.flip, bool), "True or False")
        whole = self.short_side is None or isinstance(self.short_side, Integral)
        self._expect(
            "short_side",
            whole and 0 <= (self.short_side or 0) <= LARGEST_SHORT_SIDE,
            f"1 to {LARGEST_SHORT_SIDE} pixels, 0 for native size, or None",
        )
        self._expect("batch", isinstance(self.batch, Integral) and self.batch >= 1, "a whole number from 1")

    def _expect(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"inference: {name} must be {expected}, got {getattr(self, name)!r}")

    def for_weights(self, short_side: int | None) -> Inference:
        """Return this protocol with the short side that the weights were trained for, unless it has one already."""
        return self if self.short_side is not None else replace(self, short_side=short_side)

    def __str__(self) -> str:
        """Return the protocol in a few words, for the output of commands."""
        words = [f"protocol {self.protocol}", f"short side {self.short_side or 'native'}"]
        if self.mode == "slide":
            words.append(f"windows of {self.crop} every {self.stride}")
        if self.views > 1:
            words.append("scales " + " ".join(f"{scale:g}" for scale in self.scales))
        return ", ".join(words + ["mirrored too"] * self.flip)

    @property
    def views(self) -> int:
        """How many times the network sees each image."""
        return len(self.scales) * (2 if self.flip else 1)

    def resized(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Return height and width of an image of height x width after the first resize at `scale`."""
        if self.protocol == "native":
            if self.short_side:
                scale *= short_side_scale(height, width, self.short_side)
            return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        # Both fit the image into a box, as mmcv's imrescale does, whose sides the official code truncates.
        if self.short_side:
            box = [int(LONGEST_RATIO * self.short_side * scale), int(self.short_side * scale)]
        else:
            half = 0 if self.protocol == "official" else 0.5
            box = [int(side * scale + half) for side in (height, width)]
        ratio = min(max(box) / max(height, width), min(box) / min(height, width))
        return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))

    def seen(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Return height and width at which the network sees an image of height x width at `scale`."""
        rows, columns = self.resized(height, width, scale)
        if self.protocol == "native":
            return rows, columns
        return -(-rows // DIVISOR) * DIVISOR, -(-columns // DIVISOR) * DIVISOR


@torch.no_grad()
def predict_logits(
    model: Network,
    images: Tensor,
    preprocessing: Preprocessing | None = None,
    inference: Inference | None = None,
) -> Tensor:
    """Return the scores of every class at every pixel; their argmax is the label map.

    They are logits for one view, and averaged softmax probabilities for several (scales, flip). A model with a
    threshold has scores of both its classes; of its probabilities, class 1 wins above the threshold instead.

    Args:
        model: in evaluation mode.
        images: (N, 3, H, W) uint8 RGB on the model's device.
        preprocessing: makes the network's input; ImageNet's numbers by default. Its `short_side` is not used.
        inference: the protocol; the whole image once by default.

    Returns:
        (N, K, H, W) float32.

    Raises:
        RuntimeError: the model is in training mode. TypeError: images of another dtype. NonFiniteError: there are
            NaN or Inf among the logits.
    """
    inference = inference or Inference()
    _check(model, images)
    size = (images.shape[2], images.shape[3])
    total: Tensor | None = None
    corners, threshold = model.config.align_corners, model.config.threshold
    for scale in inference.scales:
        for mirrored in (False, True) if inference.flip else (False,):
            view = _view(images, preprocessing or Preprocessing(), inference, scale, mirrored)
            logits = _view_logits(model, view, inference)
            logits = _resize_logits(logits.flip(3) if mirrored else logits, size, corners)
            several = inference.views > 1
            scores = class_logits(logits, threshold).softmax(1) if several else two_logits(logits, threshold)
            total = scores if total is None else total.add_(scores)
    assert total is not None  # there is at least one scale
    return total.div_(inference.views) if inference.views > 1 else total


@torch.no_grad()
def predict_mask(
    model: Network,
    images: Tensor,
    preprocessing: Preprocessing | None = None,
    inference: Inference | None = None,
) -> Tensor:
    """Return the most likely class of every pixel: the argmax of `predict_logits`, in less memory.

    If the image is seen once, no full-size logits exist. The last resize and the argmax are fused. Where windows see
    the image at its own size, 32 MB of logits are there at a time, besides the network's small ones of two rows of
    windows (about K * W * crop / 6 bytes with the default stride), and one window at a time is normalised. Several
    scales and mirrored views hold all logits, and so does ``align_corners`` unless windows see the image at its
    own size.

    Args:
        model: in evaluation mode.
        images: (N, 3, H, W) uint8 RGB on the model's device.
        preprocessing: makes the network's input; ImageNet's numbers by default. Its `short_side` is not used.
        inference: the protocol; the whole image once by default.

    Returns:
        (N, H, W) class ids, uint8 up to 256 classes, else int32.

    Raises:
        RuntimeError: the model is in training mode. TypeError: images of another dtype. NonFiniteError: there are
            NaN or Inf among the logits.
    """
    inference = inference or Inference()
    _check(model, images)
    threshold = model.config.threshold
    if inference.views > 1:
        scores = predict_logits(model, images, preprocessing, inference)
        return _ids(scores) if threshold is None else (scores[:, 1] > threshold).to(torch.uint8)
    size = (images.shape[2], images.shape[3])
    view = _view(images, preprocessing or Preprocessing(), inference, inference.scales[0], False)
    if inference.mode == "whole" and (inference.protocol == "native" or view.size == size):
        return model.predict(view.window(0, 0, *view.size), size)
    if inference.mode == "slide" and view.pixels.shape[2:] == size:
        bands = _sliding_logits(model, view, inference)
        return _joined((_ids(two_logits(band, threshold)) for band in bands), size[0])
    logits = two_logits(_view_logits(model, view, inference), threshold)
    return upsample_argmax(logits, size, model.config.align_corners)


@torch.no_grad()
def predict_probabilities(
    model: Network,
    images: Tensor,
    preprocessing: Preprocessing | None = None,
    inference: Inference | None = None,
) -> Iterator[Tensor]:
    """Yield the probability of every class at every pixel, as bands of rows from top to bottom.

    They are the softmax of the logits at the images' size, averaged over scales and mirrored views. A model with a
    threshold has the sigmoid of its logit for class 1, and the rest for class 0. Beside the logits as the network
    gives them, a few bands of 32 MB are in memory, whatever K is; windows that see a resized image hold all logits.

    Args:
        model: in evaluation mode.
        images: (N, 3, H, W) uint8 RGB on the model's device.
        preprocessing: makes the network's input; ImageNet's numbers by default. Its `short_side` is not used.
        inference: the protocol; the whole image once by default.

    Yields:
        (N, K, rows, W) float32, which the caller may change.

    Raises:
        RuntimeError: the model is in training mode. TypeError: images of another dtype. NonFiniteError: there are
            NaN or Inf among the logits. ValueError: an exported file gives masks.
    """
    inference, preprocessing = inference or Inference(), preprocessing or Preprocessing()
    _check(model, images)
    size = (images.shape[2], images.shape[3])
    corners, threshold = model.config.align_corners, model.config.threshold
    logits = []
    for scale in inference.scales:
        for mirrored in (False, True) if inference.flip else (False,):
            view = _view(images, preprocessing, inference, scale, mirrored)
            if inference.views == 1 and inference.mode == "slide" and view.pixels.shape[2:] == size:
                for band in _sliding_logits(model, view, inference):
                    yield class_logits(band, threshold).softmax(1)
                return
            seen = _view_logits(model, view, inference)
            logits.append(class_logits(seen.flip(3) if mirrored else seen, threshold))
    step = band_rows(len(images) * model.config.num_classes * size[1])
    for first in range(0, size[0], step):
        last = min(first + step, size[0])
        total = _resized_band(logits[0], first, last, size, corners).softmax(1)
        for seen in logits[1:]:
            total += _resized_band(seen, first, last, size, corners).softmax(1)
        yield total.div_(len(logits))


@torch.no_grad()
def encoder_features(
    model: SegNeXt,
    images: Tensor,
    stage: int,
    preprocessing: Preprocessing | None = None,
    inference: Inference | None = None,
) -> Tensor:
    """Return what a stage of the encoder makes of whole images, seen once, at the protocol's size for scale 1.

    Args:
        model: in evaluation mode.
        images: (N, 3, H, W) uint8 RGB on the model's device.
        stage: 1 to 4.
        preprocessing: makes the network's input; ImageNet's numbers by default. Its `short_side` is not used.
        inference: the protocol, of which `mode`, `scales` and `flip` are not used.

    Returns:
        (N, C, ceil(h/s), ceil(w/s)) float32, s = 4, 8, 16 or 32, of images that were resized to h x w.

    Raises:
        ValueError: there is no such stage. RuntimeError: the model is in training mode. TypeError: images of another
            dtype.
    """
    if stage not in range(1, len(STRIDES) + 1):
        raise ValueError(f"features: stage must be from 1 to {len(STRIDES)}, got {stage!r}")
    _check(model, images)
    view = _view(images, preprocessing or Preprocessing(), inference or Inference(), 1.0, False)
    with torch.inference_mode():
        features = model.forward_features(view.window(0, 0, *view.size))[stage - 1]
    height, width = (-(-side // STRIDES[stage - 1]) for side in view.pixels.shape[2:])  # no padding
    return features[:, :, :height, :width].float()


def _view(
    images: Tensor, preprocessing: Preprocessing, inference: Inference, scale: float, mirrored: bool
) -> View:
    height, width = images.shape[2:]
    size = inference.seen(height, width, scale)
    images = resize(images, inference.resized(height, width, scale))
    if inference.protocol == "official":
        images = resize(images, size)
    return View(images.flip(3) if mirrored else images, size, preprocessing)


def _view_logits(model: Network, view: View, inference: Inference) -> Tensor:
    """Return the logits of one view, whose only resize that is left is the one to the photograph's size."""
    height, width = view.pixels.shape[2:]
    if inference.mode == "slide":
        return _joined(_sliding_logits(model, view, inference), height)
    logits = _logits(model, view.window(0, 0, *view.size))
    if inference.protocol == "native":
        return logits
    return _resize_logits(logits, view.size, model.config.align_corners)[:, :, :height, :width]


def _joined(bands: Iterable[Tensor], height: int) -> Tensor:
    """Join bands of rows, from top to bottom, without a second copy of them all."""
    result, top = None, 0
    for band in bands:
        rows = band.shape[-2]
        if result is None:
            result = band.new_empty((*band.shape[:-2], height, band.shape[-1]))
        result[..., top : top + rows, :] = band
        top += rows
    assert result is not None  # there is at least one band
    return result


def _sliding_logits(model: Network, view: View, inference: Inference) -> Iterator[Tensor]:
    assert inference.stride is not None  # set when `inference` was made
    network, align_corners = partial(_logits, model), model.config.align_corners
    return sliding_logits(network, view, inference.crop, inference.stride, inference.batch, align_corners)


def _logits(model: Network, images: Tensor) -> Tensor:
    with torch.inference_mode():
        logits = model.forward_logits(images)
        model.expect_finite(logits)
    return logits.float()


def _resize_logits(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)


def _resized_band(
    logits: Tensor, first: int, last: int, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Return the rows `first` to `last` of what `_resize_logits` makes."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits[:, :, first:last]
    rows = resized_rows(logits, first, last, size[0], align_corners)
    return _resize_logits(rows, (last - first, size[1]), align_corners)


def _ids(scores: Tensor) -> Tensor:
    return scores.argmax(1).to(torch.uint8 if scores.shape[1] <= 256 else torch.int32)


def _check(model: Network, images: Tensor) -> None:
    if model.training:
        raise RuntimeError(
            "inference: the model must be in evaluation mode, got training mode; call model.eval() first"
        )
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(
            f"inference: images must be (N, 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}; normalised "
            "tensors go to model.predict"
        )
