"""Looks inside a model: how sure it is at each pixel, and its features as colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segnext.data.preprocessing import Preprocessing
from segnext.predict.inference import Inference, Network, predict_probabilities

MAPS = ("confidence", "entropy", "margin")
"""The maps of `inspect`."""

# Scores beyond these percentiles get the darkest or brightest colour: a few extreme cells would leave the others gray.
_DARKEST, _BRIGHTEST = 1, 99


def inspect(
    model: Network,
    images: Tensor,
    preprocessing: Preprocessing | None = None,
    inference: Inference | None = None,
    maps: Sequence[str] = MAPS,
) -> dict[str, np.ndarray]:
    """Return how sure a model is at each pixel of one image, see `segnext.Predictor.inspect`.

    Args:
        model: in evaluation mode.
        images: (1, 3, H, W) uint8 RGB on the model's device.
        preprocessing: makes the network's input; ImageNet's numbers by default.
        inference: the protocol; the whole image once by default.
        maps: some of `MAPS`.

    Returns:
        For each name (H, W) float32 within 0..1.

    Raises:
        ValueError: no such map. Others as `segnext.predict.inference.predict_probabilities`.
    """
    unknown = [name for name in maps if name not in MAPS]
    if unknown or isinstance(maps, str):
        got = repr(maps if isinstance(maps, str) else unknown[0])
        raise ValueError(f"inspect: maps must be a sequence of {', '.join(MAPS)}, got {got}")
    result = {name: np.empty(tuple(images.shape[2:]), np.float32) for name in maps}
    top = 0
    for band in predict_probabilities(model, images, preprocessing, inference):
        rows = band.shape[2]
        for name, values in _measured(band, maps).items():
            result[name][top : top + rows] = values[0].cpu()
        top += rows
    return result


def _measured(probabilities: Tensor, maps: Sequence[str]) -> dict[str, Tensor]:
    """Return the maps (N, rows, W) of probabilities (N, K, rows, W), which are changed."""
    first, place = probabilities.max(1, keepdim=True)
    measured = {"confidence": first}
    if "entropy" in maps:
        most = math.log(probabilities.shape[1])
        measured["entropy"] = torch.special.entr(probabilities).sum(1, keepdim=True).div_(most)
    if "margin" in maps:
        probabilities.scatter_(1, place, -1.0)  # topk takes several times as long
        measured["margin"] = first - probabilities.amax(1, keepdim=True)
    return {name: measured[name][:, 0].clamp(0, 1) for name in maps}  # rounding can give 1 + 1e-7


@dataclass(frozen=True)
class PrincipalColours:
    """The three directions in which the features of an image differ most, as colours.

    Attributes:
        colours: (h, w, 3) uint8; red is the first direction. A direction that does not exist is gray.
        shares: of the features' variance, 0..1, that each direction has.
    """

    colours: np.ndarray
    shares: tuple[float, float, float]


def principal_colours(features: np.ndarray) -> PrincipalColours:
    """Show the features of one image by their principal components.

    The components are those of the image alone, so that colours of two images cannot be compared. They are exact and
    have a fixed sign (the entry of the largest magnitude is positive): two runs give the same colours.

    Args:
        features: (C, h, w), finite, C >= 3.

    Raises:
        ValueError: the features have another shape, or there are NaN or Inf among them.
    """
    if features.ndim != 3 or len(features) < 3 or 0 in features.shape or not np.isfinite(features).all():
        raise ValueError(f"principal_colours: features must be finite (C, h, w), got {features.shape}")
    cells = features.reshape(len(features), -1).astype(np.float64)
    cells -= cells.mean(1, keepdims=True)
    covariance = cells @ cells.T / cells.shape[1]
    variances, directions = np.linalg.eigh(covariance)  # rising
    variances, directions = variances[:-4:-1], directions[:, :-4:-1]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(0)[None], 0)
    scores = (directions * np.sign(largest)).T @ cells
    total = float(np.trace(covariance))
    shares = [float(max(variance, 0.0)) / total if total else 0.0 for variance in variances]
    low, high = np.percentile(scores, (_DARKEST, _BRIGHTEST), axis=1, keepdims=True)
    # What is left of a direction without variance is rounding, which would fill the picture.
    exists = (np.array(shares) > 1e-9)[:, None] & (high > low)
    shown = np.where(exists, (scores - low) / np.where(exists, high - low, 1), 0.5).clip(0, 1)
    colours = (255 * shown + 0.5).astype(np.uint8).T.reshape(*features.shape[1:], 3)
    return PrincipalColours(colours, (shares[0], shares[1], shares[2]))
