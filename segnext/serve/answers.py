"""Makes answers from predictions: JSON, a mask, or an overlay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from segnext.predict.prediction import Prediction
from segnext.serve import masks

Output = Literal["json", "mask", "overlay"]
MaskForm = Literal["runs", "rle", "polygons", "none"]


@dataclass(frozen=True)
class Wanted:
    """What a client wants to get.

    Attributes:
        output: JSON, a PNG of class ids, or the photograph tinted with the classes' colours.
        masks: the form of the mask in JSON.
        alpha: of the overlay: 0 shows the photograph, 1 the colours.
        legend: whether the overlay has one.
    """

    output: Output = "json"
    masks: MaskForm = "runs"
    alpha: float = 0.5
    legend: bool = True


@dataclass(frozen=True)
class Answer:
    """The body of an answer.

    Attributes:
        media_type: of the body.
        content: its bytes; of JSON, the opening brace and all members but the time in the service, see `with_time`.
        size: height and width of the image.
        seconds: of the model.
    """

    media_type: str
    content: bytes
    size: tuple[int, int]
    seconds: float

    def with_time(self, seconds: float) -> bytes:
        """Return the body; JSON says how long the service took, which is known at the end only."""
        if self.media_type != "application/json":
            return self.content
        return self.content + b', "seconds_total": %.6f}' % seconds


def class_table(classes: tuple[str, ...], palette: np.ndarray) -> list[dict[str, Any]]:
    """Return id, name and colour of each class."""
    return [
        {"id": index, "name": name, "color": "#{:02x}{:02x}{:02x}".format(*palette[index].tolist())}
        for index, name in enumerate(classes)
    ]


def answer(prediction: Prediction, model: str, wanted: Wanted) -> Answer:
    """Return what a client wants of a prediction; `model` is the name of what made it."""
    height, width = prediction.mask.shape
    if wanted.output == "mask":
        media_type, content = "image/png", prediction.mask_png()
    elif wanted.output == "overlay":
        kind, content = prediction.overlay_file(wanted.alpha, wanted.legend)
        media_type = f"image/{kind.lower()}"
    else:
        media_type, content = "application/json", _json(prediction, model, wanted.masks)
    return Answer(media_type, content, (height, width), prediction.seconds)


def _json(prediction: Prediction, model: str, form: MaskForm) -> bytes:
    counts = prediction.counts()
    table = class_table(prediction.classes, prediction.palette)
    present = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    height, width = prediction.mask.shape
    members = {
        "model": model,
        "width": width,
        "height": height,
        "seconds": round(prediction.seconds, 6),
        "classes": [{**table[index], "share": counts[index] / prediction.mask.size} for index in present],
        "mask": _mask(prediction.mask, form),
    }
    return json.dumps(members).encode()[:-1]


def _mask(mask: np.ndarray, form: MaskForm) -> dict[str, Any] | None:
    if form == "runs":
        return {"runs": masks.runs(mask)}
    if form == "rle":
        return {"rle": masks.run_lengths(mask)}
    return {"polygons": masks.polygons(mask)} if form == "polygons" else None
