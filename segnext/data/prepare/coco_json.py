"""Instances in COCO's JSON to label maps: each image gets the ids of its objects' categories.

The ids follow the order of "categories" in the file. Objects are drawn in the order of the file, one over the other;
polygons by Pillow, whose outlines belong to the object, so that edges may differ by a pixel from pycocotools.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segnext.data.prepare.data_yaml import choose_ids, data_yaml
from segnext.data.prepare.masks import checked_size, decode_rle, points_of
from segnext.data.prepare.plan import MaskJob, Plan, Request, missing
from segnext.one_line import one_line, shown

_KEYS = ("images", "annotations", "categories")
_STEP = "put the file, such as annotations/instances_val2017.json, and its images below the folder of --root"


@dataclass(frozen=True)
class InstanceMask(MaskJob):
    """Draws the objects of one image.

    Attributes:
        size: the "width" and "height" that the file states.
        objects: the id and the "segmentation" of each object.
        background: id of all other pixels.
    """

    size: tuple[Any, Any]
    objects: list[tuple[int, Any]]
    background: int

    def mask(self) -> np.ndarray:
        width, height = checked_size(*self.size)
        ids = np.full((height, width), self.background, np.uint8)
        for index, segmentation in self.objects:
            if isinstance(segmentation, dict):
                region = decode_rle(segmentation)
                if region.shape != ids.shape:
                    raise ValueError(
                        f"masks must have the image's size {height}x{width}, got {shown(region.shape)}"
                    )
            else:
                region = _drawn(segmentation, width, height)
            ids[region] = index
        return ids


def _drawn(polygons: object, width: int, height: int) -> np.ndarray:
    if not isinstance(polygons, list):
        raise ValueError(f"a segmentation must be polygons or an RLE, got {shown(polygons)}")
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    for flat in polygons:
        if not isinstance(flat, list) or len(flat) % 2:
            raise ValueError(f"a polygon must be a list [x, y, x, y, ...], got {shown(flat)}")
        pairs = [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
        draw.polygon(points_of(pairs), fill=1)
    return np.asarray(image)


@dataclass(frozen=True)
class _Annotations:
    """One JSON file: its split, its content, and the folder of its images."""

    file: Path
    split: str
    content: dict[str, Any]
    images: Path


def plan(request: Request) -> Plan:
    """Return a job for every image in the files; see `segnext.data.prepare.plan.plan`."""
    parts = _annotations(request.root)
    names = _names(parts[0])
    for part in parts:
        if _names(part) != names:
            raise ValueError(
                f"data prepare: categories must be equal in all files, got others in {part.file} than in "
                f"{parts[0].file}; prepare them into two folders"
            )
    ids = choose_ids(names, request.background, parts[0].file)
    index_of = {category["id"]: category["name"] for category in parts[0].content["categories"]}
    kept = {number: ids.of(name) if name in ids.names else 0 for number, name in index_of.items()}
    jobs: list[MaskJob] = []
    texts: dict[Path, str] = {}
    splits = {}
    for part in parts:
        labels = request.out / "labels" / part.split
        made = _jobs(part, labels, kept, ids.background)
        jobs += made
        listed = request.out / "labels" / f"{part.split}.txt"
        stems = [job.target.relative_to(labels).with_suffix("").as_posix() for job in made]
        texts[listed] = "".join(f"{stem}\n" for stem in sorted(stems))
        splits[part.split] = {"images": part.images, "labels": labels, "list": listed}
    texts |= data_yaml(request, ids, splits)
    return Plan(jobs, texts, check=(str(request.out / "data.yaml"),))


def _annotations(root: Path) -> list[_Annotations]:
    found: list[_Annotations] = []
    for file in sorted({*root.glob("*.json"), *root.glob("*/*.json")}):
        content = _read(file)
        if content is None:
            continue
        split = _split(file)
        if any(part.split == split for part in found):
            raise ValueError(
                f"data prepare: each split must have one file, got {file} and another one for {split}; give the "
                "folder of one data set with --root, with train, val or test in the files' names"
            )
        found.append(_Annotations(file, split, content, _folder_of_images(file, root, content)))
    if not found:
        raise missing(root / "annotations/*.json", _STEP)
    return found


def _read(file: Path) -> dict[str, Any] | None:
    """Return the content, or None if it has no objects: captions, licences, settings of programs."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"data prepare: {file} must be JSON, got {one_line(error)}; download it again"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _KEYS):
        return None
    if not all("segmentation" in annotation for annotation in content["annotations"][:1]):
        return None
    return content


def _split(file: Path) -> str:
    """Return "val" for instances_val2017.json and for valid/_annotations.coco.json."""
    for word in (file.stem.lower(), file.parent.name.lower()):
        for split in ("train", "val", "test"):
            if split in word:
                return split
    return "train"


def _folder_of_images(file: Path, root: Path, content: dict[str, Any]) -> Path:
    """Return the folder that has the first of the images."""
    if not content["images"]:
        raise ValueError(f"data prepare: {file} must list images, got none")
    name = str(content["images"][0].get("file_name"))
    tag = file.stem.rsplit("_", 1)[-1]
    places = (file.parent, root / tag, root / "images" / tag, root / "images", root, root / _split(file))
    for place in places:
        if (place / name).is_file():
            return place
    raise missing(root / tag / name, f"unpack the images of {file} to {root / tag}")


def _names(part: _Annotations) -> list[str]:
    try:
        return [str(category["name"]) for category in part.content["categories"]]
    except (KeyError, TypeError):
        raise ValueError(
            f"data prepare: categories in {part.file} must have names, got some without"
        ) from None


def _jobs(part: _Annotations, labels: Path, ids: dict[int, int], background: int) -> list[InstanceMask]:
    of_image: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
    try:
        for annotation in part.content["annotations"]:
            index = ids[annotation["category_id"]]
            of_image[annotation["image_id"]].append((index, annotation["segmentation"]))
        _expect_places([image["file_name"] for image in part.content["images"]], part.file)
        return [
            InstanceMask(
                part.images / image["file_name"],
                labels / Path(image["file_name"]).with_suffix(".png"),
                (image.get("width"), image.get("height")),
                of_image[image["id"]],
                background,
            )
            for image in part.content["images"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"data prepare: annotations in {part.file} must have image_id, category_id and segmentation of things "
            f"that the file lists, got {type(error).__name__} {one_line(error)}; export it again"
        ) from None


def _expect_places(names: list[str], file: Path) -> None:
    """Refuse names of images whose masks would lie elsewhere, or be one file."""
    for name in names:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(
                f"data prepare: images in {file} must lie below their folder, got {one_line(name)}; correct file_name"
            )
    stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in names)
    stem, count = stems.most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"data prepare: images in {file} must differ in more than the extension, got {count} of {one_line(stem)}; "
            "rename them"
        )
