"""Pascal Context (Mottaghi et al. 2014), 59 classes and background, on the photographs of VOC 2010.

Two public forms are read: `trainval_merged.json` of the Detail API, which has the lists of training and validation
too, and the .mat files of the data set's site with the names of their 459 ids in labels.txt. In both, the ids follow
the alphabet, and so do the classes here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segnext.data.prepare.masks import checked_size, decode_rle
from segnext.data.prepare.matlab import read_matlab, require_scipy
from segnext.data.prepare.plan import MaskJob, Plan, Request, missing, names_in
from segnext.one_line import shown

NAMES = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle"),
    *("building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup"),
    *("curtain", "dog", "door", "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard"),
    *("light", "motorbike", "mountain", "mouse", "person", "plate", "platform", "pottedplant", "road"),
    *("rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train"),
    *("tree", "truck", "tvmonitor", "wall", "water", "window", "wood"),
)
"""Classes 1 to 59; 0 is the background, that is everything else."""
IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144),
    *(158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354),
    *(355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
"""The ids of these classes among the 459, in the JSON file."""
LARGEST_ID = 459
_STEP = (
    "put trainval_merged.json of the Detail API there, or unpack trainval.tar.gz of the Pascal-Context site there; "
    "--root is the folder VOCdevkit/VOC2010"
)


@dataclass(frozen=True)
class MatlabMask(MaskJob):
    """Reads the 459 ids of a .mat file.

    Attributes:
        classes: (460,) uint8, the class of each id.
    """

    classes: np.ndarray

    def mask(self) -> np.ndarray:
        return self.classes[_expect_ids(read_matlab(self.source, "LabelMap"))]


@dataclass(frozen=True)
class DetailMask(MaskJob):
    """Draws the annotations of one image in the JSON file, one over the other in their order."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]

    def mask(self) -> np.ndarray:
        width, height = checked_size(self.image.get("width"), self.image.get("height"))
        classes, ids = _class_of_each(dict(zip(IDS, NAMES, strict=True))), np.zeros((height, width), np.uint8)
        for annotation in self.annotations:
            region = decode_rle(annotation["segmentation"])
            if region.shape != ids.shape:
                raise ValueError(
                    f"masks must have the image's size {height}x{width}, got {shown(region.shape)}"
                )
            ids[region] = classes[_expect_ids(np.array([[annotation["category_id"]]]))[0, 0]]
        return ids


def plan(request: Request) -> Plan:
    """Return a job for every image; see `segnext.data.prepare.plan.plan`."""
    places = (request.root, request.root.parent)
    merged = [place / "trainval_merged.json" for place in places]
    matlab = [place / "trainval" for place in places]
    for file in merged:
        if file.is_file():
            return _plan(request, *_from_json(request, file))
    for folder in matlab:
        if any(folder.glob("*.mat")):
            return _plan(request, *_from_matlab(request, folder))
    raise missing(merged[0], _STEP)


def _plan(request: Request, jobs: list[MaskJob], lists: dict[str, list[str]]) -> Plan:
    folder = request.out / "ImageSets" / "SegmentationContext"
    return Plan(
        jobs,
        {folder / f"{split}.txt": "".join(f"{name}\n" for name in sorted(lists[split])) for split in lists},
        check=("pascal_context", "--root", str(request.out)),
        images=("JPEGImages",),
    )


def _from_json(request: Request, file: Path) -> tuple[list[MaskJob], dict[str, list[str]]]:
    try:
        content = json.loads(file.read_bytes())
        of_image = defaultdict(list)
        for annotation in content["annos_segmentation"]:
            of_image[annotation["image_id"]].append(
                {key: annotation[key] for key in ("category_id", "segmentation")}
            )
        jobs: list[MaskJob] = []
        lists: dict[str, list[str]] = {"train": [], "val": []}
        for image in content["images"]:
            name = Path(image["file_name"]).stem
            if image["phase"] not in lists:  # the phase "test" has no annotations
                continue
            lists[image["phase"]].append(name)
            sizes = {key: image.get(key) for key in ("width", "height")}
            # A failure names the image; the JSON file is the same one for all.
            source = request.root / "JPEGImages" / f"{name}.jpg"
            jobs.append(DetailMask(source, _target(request, name), sizes, of_image[image["image_id"]]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"data prepare: {file} must be the Detail API's trainval_merged.json, got {type(error).__name__} "
            f"{error}; download it again"
        ) from None
    return jobs, lists


def _from_matlab(request: Request, folder: Path) -> tuple[list[MaskJob], dict[str, list[str]]]:
    require_scipy("pascal_context")
    classes = _class_of_each(_names_of_ids(folder))
    files = {path.stem: path for path in sorted(folder.glob("*.mat"))}
    step = "unpack VOCtrainval_03-May-2010.tar; --root is its folder VOCdevkit/VOC2010"
    lists = {
        split: [
            name
            for name in names_in(request.root / f"ImageSets/Main/{split}.txt", step)
            if name in files  # VOC has photographs that Pascal Context leaves out
        ]
        for split in ("train", "val")
    }
    return [MatlabMask(path, _target(request, name), classes) for name, path in files.items()], lists


def _names_of_ids(folder: Path) -> dict[int, str]:
    """Return the names in labels.txt, whose lines are ``2: aeroplane``."""
    for file in (folder / "labels.txt", folder.parent / "labels.txt"):
        if file.is_file():
            pairs = (
                line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines() if ":" in line
            )
            return {int(number): name.strip() for number, name in pairs if number.strip().isdecimal()}
    raise missing(
        folder / "labels.txt", "download the list of the 459 names from the Pascal-Context site too"
    )


def _class_of_each(names: dict[int, str]) -> np.ndarray:
    """Return the class of each id, (460,) uint8, by name; spaces in names do not count."""
    classes = np.zeros(LARGEST_ID + 1, np.uint8)
    plain = {name.replace(" ", "").lower(): number for number, name in names.items()}
    for index, name in enumerate(NAMES, 1):
        number = plain.get(name)
        if number is None or not 1 <= number <= LARGEST_ID:
            raise ValueError(
                f"data prepare: labels.txt must name all 59 classes with ids 1..{LARGEST_ID}, got none for {name}; "
                "download it again"
            )
        classes[number] = index
    return classes


def _expect_ids(ids: np.ndarray) -> np.ndarray:
    if not ((ids >= 0) & (ids <= LARGEST_ID)).all():
        raise ValueError(f"ids must be 0..{LARGEST_ID}, got {ids.min()}..{ids.max()}")
    return ids


def _target(request: Request, name: str) -> Path:
    return request.out / "SegmentationClassContext" / f"{name}.png"
