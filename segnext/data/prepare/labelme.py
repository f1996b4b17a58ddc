"""labelme's JSON files, one beside each photograph, to label maps.

Shapes are drawn in the order of the file, one over the other. Two of labelme's labels are no classes: ``__ignore__``
is the ignored id, ``_background_`` the id of pixels without a shape.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segnext.data.labels import VOID
from segnext.data.prepare.data_yaml import Ids, choose_ids, data_yaml
from segnext.data.prepare.masks import checked_size, points_of
from segnext.data.prepare.plan import MaskJob, Plan, Request, missing
from segnext.one_line import shown

_IGNORED, _BACKGROUND = "__ignore__", "_background_"


@dataclass(frozen=True)
class ShapeMask(MaskJob):
    """Draws the shapes of one file."""

    ids: Ids

    def mask(self) -> np.ndarray:
        content = _read(self.source)
        size = checked_size(content.get("imageWidth"), content.get("imageHeight"))
        image = Image.new("L", size, self.ids.background)
        draw = ImageDraw.Draw(image)
        for shape in content["shapes"]:
            _draw(draw, shape, self._id_of(shape["label"]))
        return np.asarray(image)

    def _id_of(self, label: str) -> int:
        if label == _IGNORED:
            return VOID
        is_background = label == _BACKGROUND or (label.lower() == "background" and not self.ids.background)
        return self.ids.background if is_background else self.ids.of(label)


def _draw(draw: ImageDraw.ImageDraw, shape: dict[str, Any], index: int) -> None:
    kind = shape.get("shape_type", "polygon")
    if kind == "polygon":
        draw.polygon(points_of(shape["points"]), fill=index)
        return
    if kind not in ("rectangle", "circle"):
        raise ValueError(f"shapes must be polygons, rectangles or circles, got {shown(kind)}; redraw it")
    points = points_of(shape["points"], fewest=2)
    xs, ys = zip(*points, strict=True)
    if kind == "rectangle":
        draw.rectangle((min(xs), min(ys), max(xs), max(ys)), fill=index)
        return
    (x, y), (edge_x, edge_y) = points[:2]
    radius = math.hypot(edge_x - x, edge_y - y)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=index)


def plan(request: Request) -> Plan:
    """Return a job for every JSON file below the folder; see `segnext.data.prepare.plan.plan`."""
    files = sorted(request.root.rglob("*.json"))
    if not files:
        raise missing(request.root / "*.json", "save labelme's files beside their photographs")
    names = request.classes if request.classes is not None else _census(files)
    ids = choose_ids(names, request.background, request.root)
    labels, listed = request.out / "labels", request.out / "labels.txt"
    relative = [path.relative_to(request.root).with_suffix("") for path in files]
    jobs = [ShapeMask(path, labels / f"{name}.png", ids) for path, name in zip(files, relative, strict=True)]
    places = {"images": request.root, "labels": labels, "list": listed}
    return Plan(
        jobs,
        {
            listed: "".join(f"{name.as_posix()}\n" for name in relative),
            **data_yaml(request, ids, {"train": places}),
        },
        check=(str(request.out / "data.yaml"),),
    )


def _census(files: list[Path]) -> list[str]:
    """Return all labels that occur, sorted; a damaged file fails later, in its job."""
    found: set[str] = set()
    for path in files:
        try:
            found |= {shape["label"] for shape in _read(path)["shapes"]}
        except (ValueError, OSError):
            continue
    return sorted(found - {_IGNORED, _BACKGROUND})


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(
        isinstance(shape, dict) and isinstance(shape.get("label"), str) and "points" in shape
        for shape in shapes
    ):
        raise ValueError("must be a file of labelme: an object with shapes that have a label and points")
    return content
