"""Compares two models on the same photographs: where their masks differ, and which of them is surer there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from segnext.evaluation.metrics import ConfusionMatrix
from segnext.export.network import ExportedNetwork
from segnext.one_line import one_line
from segnext.predict.predictor import Predictor

_STRIP = 1 << 20  # pixels that are counted at once: counting takes 8 bytes of some of them


@dataclass(frozen=True)
class SharedClasses:
    """One list of classes for the masks of two models.

    Attributes:
        names: those of the first model, and then those that only the second one has.
        palette: (K, 3) uint8 RGB.
        first, second: for each class id of a model its id in the list.
    """

    names: tuple[str, ...]
    palette: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @property
    def of_one(self) -> tuple[str, ...]:
        """The classes that only one of the models has."""
        ids = set(self.first.tolist()) ^ set(self.second.tolist())
        return tuple(self.names[index] for index in sorted(ids))


def share_classes(first: Predictor, second: Predictor) -> SharedClasses:
    """Match the classes of two models.

    Equal lists match by id. So do lists of one length if one has only the names "class 0", "class 1", ..., which stand
    for none. Other lists match by name.

    Raises:
        ValueError: they have no name in common.
    """
    ids = np.arange(len(first.classes))
    unnamed = [all(re.fullmatch(r"class \d+", name) for name in one.classes) for one in (first, second)]
    if first.classes == second.classes or (any(unnamed) and len(first.classes) == len(second.classes)):
        named = second if unnamed[0] else first
        return SharedClasses(named.classes, named.palette, ids, ids)
    names = tuple(dict.fromkeys((*first.classes, *second.classes)))
    if len(names) == len(set(first.classes)) + len(set(second.classes)):
        lists = (one_line(", ".join(one.classes), 80) for one in (first, second))
        raise ValueError(
            f"compare: the models must have classes in common, got {' and '.join(lists)}; models without class names "
            "are compared by id if they have equally many"
        )
    colours = dict(zip(second.classes, second.palette, strict=True)) | dict(
        zip(first.classes, first.palette, strict=True)
    )
    place = {name: index for index, name in enumerate(names)}
    return SharedClasses(
        names,
        np.stack([colours[name] for name in names]),
        *(np.array([place[name] for name in one.classes]) for one in (first, second)),
    )


@dataclass(frozen=True)
class Pair:
    """What two models make of one photograph.

    Attributes:
        image: (H, W, 3) uint8 RGB, the photograph.
        masks: of the first and the second model, each (H, W) shared class ids, uint8 up to 256 classes, else int32.
        confidence: of each model, (H, W) float32, the probability of its most likely class; None if a model has none.
        seconds: that each model took.
    """

    image: np.ndarray
    masks: tuple[np.ndarray, np.ndarray]
    confidence: tuple[np.ndarray, np.ndarray] | None
    seconds: tuple[float, float]

    @property
    def agreement(self) -> float:
        """The share of the pixels with the same class, 0..1."""
        return float((self.masks[0] == self.masks[1]).mean())

    def differences(self) -> np.ndarray:
        """Return (H, W) uint8: 0 where the classes are the same, else 1 or 2: which model is surer, 1 if none is."""
        differ = (self.masks[0] != self.masks[1]).astype(np.uint8)
        if self.confidence is not None:
            differ[(differ == 1) & (self.confidence[1] > self.confidence[0])] = 2
        return differ


def gives_probabilities(predictor: Predictor) -> bool:
    """Return whether a model can say how sure it is: an exported file may give masks alone."""
    return not isinstance(predictor.model, ExportedNetwork) or predictor.model.gives_logits


def segment_pair(
    first: Predictor, second: Predictor, image: str | os.PathLike[str], classes: SharedClasses
) -> Pair:
    """Let both models segment a photograph.

    Args:
        first: the model that the other one is compared with.
        second: the other one.
        image: the file.
        classes: of `share_classes`.

    Raises:
        segnext.data.images.ImageError: the file cannot be read. Others as `Predictor.__call__`; ValueError: the file
            has changed in between.
    """
    one, other = first(image), second(image)
    dtype = np.uint8 if len(classes.names) <= 256 else np.int32
    masks = (classes.first.astype(dtype)[one.mask], classes.second.astype(dtype)[other.mask])
    confidence = None
    if gives_probabilities(first) and gives_probabilities(second):
        sure = [predictor.inspect(image, ("confidence",))["confidence"] for predictor in (first, second)]
        confidence = (sure[0], sure[1])
    sizes = {array.shape for array in (*masks, *(confidence or ()))}
    if len(sizes) > 1:
        raise ValueError(f"{image}: the file must stay as it is during a comparison, got another size")
    return Pair(one.image, masks, confidence, (one.seconds, other.seconds))


class Comparison:
    """Counts where the masks of two models differ, over many photographs.

    Args:
        classes: of `share_classes`.

    Attributes:
        confusion: rows are classes of the first model, columns of the second; its `iou` is the second one's, with the
            first one's masks as labels, and its `accuracy` is the share of a class that the second one has too.
        surer: pixels with different classes where the first and where the second model is surer, (2,) int64.
        has_confidence: whether all pairs had confidences.
    """

    def __init__(self, classes: SharedClasses) -> None:
        self.classes = classes
        self.confusion = ConfusionMatrix(len(classes.names), ignore_index=-1)
        self.surer = np.zeros(2, np.int64)
        self.has_confidence = True
        self._sure = np.zeros((2, len(classes.names)))

    def add(self, pair: Pair) -> None:
        """Count a photograph."""
        differences = pair.differences()
        self.surer += [int((differences == which).sum()) for which in (1, 2)]
        self.has_confidence &= pair.confidence is not None
        for rows in _strips(pair.masks[0].shape):
            one, other = (np.ascontiguousarray(mask[rows]) for mask in pair.masks)
            self.confusion.update(torch.from_numpy(other), torch.from_numpy(one))
            for which, confidence in enumerate(pair.confidence or ()):
                mask = (one, other)[which].ravel()
                self._sure[which] += np.bincount(mask, confidence[rows].ravel(), len(self.classes.names))

    @property
    def agreement(self) -> float:
        """The share of all pixels with the same class, 0..1; NaN without photographs."""
        return self.confusion.pixel_accuracy

    def shares(self, which: Literal[0, 1]) -> np.ndarray:
        """Return the share of all pixels that the first (0) or second (1) model gives each class: (K,) float64."""
        counts = self._counts(which)
        return counts / max(1, counts.sum())

    def confidence(self, which: Literal[0, 1]) -> np.ndarray:
        """Return the mean confidence of a model over the pixels that it gives each class: (K,); NaN if there are none.

        It is NaN throughout unless all pairs had confidences.
        """
        counts = self._counts(which)
        known = (counts > 0) & self.has_confidence
        return np.where(known, self._sure[which] / np.maximum(counts, 1), np.nan)

    def _counts(self, which: int) -> np.ndarray:
        counts: np.ndarray = self.confusion.counts.numpy().sum(1 - which)
        return counts


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _STRIP // shape[1])
    return (slice(top, top + step) for top in range(0, shape[0], step))
