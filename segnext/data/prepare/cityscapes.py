"""Cityscapes (Cordts et al. 2016): the polygons of gtFine to label maps of the 19 classes that are evaluated.

Drawn as the data set's own scripts do: polygons in the order of the file, one over the other; those that are deleted
are left out, and a group of objects (cargroup) is drawn as one object (car).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from segnext.data.labels import VOID
from segnext.data.prepare.masks import checked_size, points_of
from segnext.data.prepare.plan import MaskJob, Plan, Request, missing
from segnext.one_line import one_line

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
VOID_NAMES = frozenset(
    ("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground")
    + ("parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer")
)
"""Drawn, so that they cover what lies below, with the id that is ignored."""
NOT_DRAWN = "license plate"
SPLITS = ("train", "val")  # the polygons of "test" are empty
_END = "_gtFine_polygons.json"


@dataclass(frozen=True)
class PolygonMask(MaskJob):
    """Draws the polygons of one file."""

    def mask(self) -> np.ndarray:
        content = json.loads(self.source.read_bytes())
        if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
            raise ValueError("must be an object with a list of objects; unpack the file again")
        image = Image.new("L", checked_size(content.get("imgWidth"), content.get("imgHeight")), VOID)
        draw = ImageDraw.Draw(image)
        for item in content["objects"]:
            index = None if int(item.get("deleted", 0)) else id_of(item["label"])
            if index is not None:
                draw.polygon(points_of(item["polygon"], fewest=2), fill=index)
        return np.asarray(image)


def id_of(label: str) -> int | None:
    """Return the class of a label, 255 where it is ignored; None: it is not drawn.

    Raises:
        ValueError: Cityscapes has no such label.
    """
    known = label in CLASSES or label in VOID_NAMES
    name = label if known else label.removesuffix("group")
    if name in CLASSES:
        return CLASSES.index(name)
    if name in VOID_NAMES:
        return VOID
    if name == NOT_DRAWN:
        return None
    raise ValueError(f"labels must be those of Cityscapes, got {one_line(label)}")


def plan(request: Request) -> Plan:
    """Return a job for every file of polygons; see `segnext.data.prepare.plan.plan`."""
    jobs, notes = [], []
    for split in SPLITS:
        files = sorted((request.root / "gtFine" / split).glob(f"*/*{_END}"))
        if not files:
            notes.append(f"gtFine/{split} is not there: it is left out")
        for path in files:
            folder = request.out / "gtFine" / split / path.parent.name
            jobs.append(
                PolygonMask(path, folder / f"{path.name.removesuffix(_END)}_gtFine_labelTrainIds.png")
            )
    if not jobs:
        raise missing(
            request.root / f"gtFine/train/*/*{_END}", "unpack gtFine_trainvaltest.zip in the folder of --root"
        )
    return Plan(
        jobs,
        check=("cityscapes", "--root", str(request.out)),
        images=("leftImg8bit",),
        notes=tuple(notes),
    )
