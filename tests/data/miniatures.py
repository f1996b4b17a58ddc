"""Writes tiny copies of public data sets with their real layouts on disk, names of files, and ids in label maps.

`write_miniature("cityscapes", "ids", folder)` writes two training images and one validation image of 64x48, and what
lies beside them in the real data set. `MINIATURES` lists all names and layouts. `expected_labels` says what must be
read: each class and each ignored id of the data set is in each label map. The ids are written down here once more, from
the data sets' own descriptions; the YAMLs that the package ships are not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH, CELL = 48, 64, 4
IGNORED = 255
SPLITS = {"train": 2, "val": 1}

# labels.py of cityscapesScripts: the ids of the 19 evaluated classes, in the order of their train ids
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
# labels.txt of COCO-Stuff: these 11 of the 182 ids, counted from 0, are no class
COCO_GAPS = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
COCO_IDS = [label for label in range(182) if label not in COCO_GAPS]
# the colours of the classes of iSAID, background first
ISAID_COLOURS = [
    *([0, 0, 0], [0, 0, 63], [0, 63, 63], [0, 63, 0], [0, 63, 127], [0, 63, 191], [0, 63, 255], [0, 127, 63]),
    *([0, 127, 127], [0, 0, 127], [0, 0, 191], [0, 0, 255], [0, 191, 127], [0, 127, 191], [0, 127, 255]),
    [0, 100, 155],
]

Writer = Callable[[Path, np.ndarray], None]


def picture(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a noisy image (H, W, 3) in which each value of the labels has its own colour."""
    colours = np.random.default_rng(0).integers(20, 236, (256, 3))
    noise = np.random.default_rng(seed).integers(-20, 21, (*labels.shape, 3))
    return (colours[labels] + noise).astype(np.uint8)


def cells(count: int, seed: int) -> np.ndarray:
    """Return an image (H, W) of cells that hold 0 to count - 1, each at least once, at places that `seed` decides."""
    rows, columns = HEIGHT // CELL, WIDTH // CELL
    places = np.random.default_rng(seed).permutation(np.arange(rows * columns) % count)
    return places.reshape(rows, columns).repeat(CELL, 0).repeat(CELL, 1)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_bitmap(path: Path, pixels: np.ndarray) -> None:
    """Write a BMP whatever the name, as mmsegmentation's converter writes the tiles of iSAID to names in .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="BMP")


def write_palette(path: Path, ids: np.ndarray) -> None:
    """Write ids with colours beside them, as Pascal VOC has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)


def write_isaid_colours(path: Path, ids: np.ndarray) -> None:
    """Write the colours of iSAID's classes."""
    write_image(path, np.array(ISAID_COLOURS, np.uint8)[ids])


@dataclass(frozen=True)
class Miniature:
    """How one data set lies on disk.

    Attributes:
        image: path of an image below the root; the words in braces are keys of `names`, or {stem}.
        label: the same of its label map.
        stems: names of the images of the two splits: two for training, one for validation.
        ids: the id in the files of each class in order.
        ignored: the ids in the files that count nowhere.
        names: what the two splits are called in the paths, by the word that stands for it there.
        list: path of the text files with the names of the splits' files.
        more: paths of files that lie beside each image and must not disturb.
        write_label: writes ids as a label map.
        write_picture: writes pixels as an image.
    """

    image: str
    label: str
    stems: tuple[str, str, str]
    ids: list[int]
    ignored: list[int]
    names: dict[str, tuple[str, str]]
    list: str = ""
    more: tuple[str, ...] = ()
    write_label: Writer = write_image
    write_picture: Writer = write_image

    def path(self, template: str, split: str, stem: str = "") -> str:
        """Return a path of one file of a split."""
        position = list(SPLITS).index(split)
        return template.format(stem=stem, **{word: names[position] for word, names in self.names.items()})


def ade20k(folder: str) -> Miniature:
    return Miniature(
        image=f"{folder}images/{{split}}/{{stem}}.jpg",
        label=f"{folder}annotations/{{split}}/{{stem}}.png",
        stems=("ADE_train_00000001", "ADE_train_00000002", "ADE_val_00000001"),
        ids=list(range(1, 151)),
        ignored=[0],
        names={"split": ("training", "validation")},
    )


def cityscapes(suffix: str, ids: list[int], ignored: list[int]) -> Miniature:
    stem = "gtFine/{split}/{city}/{stem}_gtFine_"
    return Miniature(
        image="leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png",
        label=f"{stem}{suffix}.png",
        stems=("aachen_000000_000019", "aachen_000001_000019", "frankfurt_000000_000294"),
        ids=ids,
        ignored=ignored,
        names={"split": ("train", "val"), "city": ("aachen", "frankfurt")},
        more=(f"{stem}instanceIds.png", f"{stem}color.png", f"{stem}polygons.json"),
    )


def coco_stuff(images: str, labels: str, *, prepared: bool) -> Miniature:
    raw = f"{labels}/{{split}}/{{stem}}.png"
    return Miniature(
        image=f"{images}{{split}}/{{stem}}.jpg",
        label=f"{labels}/{{split}}/{{stem}}_labelTrainIds.png" if prepared else raw,
        stems=("000000000009", "000000000025", "000000000139"),
        ids=list(range(171)) if prepared else COCO_IDS,
        ignored=[255] if prepared else [255, *COCO_GAPS],
        names={"split": ("train2017", "val2017")},
        more=(raw,) if prepared else (),
    )


def voc2012(folder: str, labels: str = "SegmentationClass", train: str = "train") -> Miniature:
    return Miniature(
        image=f"{folder}JPEGImages/{{stem}}.jpg",
        label=f"{folder}{{labels}}/{{stem}}.png",
        stems=("2007_000032", "2008_000008", "2007_000033"),
        ids=list(range(21)),
        ignored=[255],
        names={"split": (train, "val"), "labels": (labels, "SegmentationClass")},
        list=f"{folder}ImageSets/Segmentation/{{split}}.txt",
        more=(f"{folder}JPEGImages/2012_{{stem}}.jpg", f"{folder}Annotations/{{stem}}.xml"),
        write_label=write_palette,
    )


def pascal_context(folder: str, *, background: bool) -> Miniature:
    return Miniature(
        image=f"{folder}JPEGImages/{{stem}}.jpg",
        label=f"{folder}SegmentationClassContext/{{stem}}.png",
        stems=("2008_000002", "2008_000003", "2008_000004"),
        ids=list(range(60)) if background else list(range(1, 60)),
        ignored=[] if background else [0],
        names={"split": ("train", "val")},
        list=f"{folder}ImageSets/SegmentationContext/{{split}}.txt",
        more=(f"{folder}JPEGImages/2010_{{stem}}.jpg",),
    )


def camvid() -> Miniature:
    return Miniature(
        image="images/{split}/{stem}.jpg",
        label="labels/{split}/{stem}.png",
        stems=("0001TP_006690", "0001TP_006720", "0016E5_07959"),
        ids=list(range(11)),
        ignored=[255],
        names={"split": ("train", "val")},
    )


def isaid_tiles() -> Miniature:
    return Miniature(
        image="img_dir/{split}/{stem}.png",
        label="ann_dir/{split}/{stem}_instance_color_RGB.png",
        stems=("P0000_0_896_0_896", "P0000_0_896_512_1408", "P0003_0_896_0_896"),
        ids=list(range(16)),
        ignored=[255],
        names={"split": ("train", "val")},
        more=("img_dir/test/P0006_{stem}.png",),
        write_picture=write_bitmap,
    )


def isaid_colours(images: str, labels: str) -> Miniature:
    return Miniature(
        image=f"{{split}}/{images}/{{stem}}.png",
        label=f"{{split}}/{labels}/{{stem}}_instance_color_RGB.png",
        stems=("P0000", "P0001", "P0003"),
        ids=list(range(16)),
        ignored=[],
        names={"split": ("train", "val")},
        more=("{split}/Instance_masks/images/{stem}_instance_id_RGB.png",),
        write_label=write_isaid_colours,
    )


_DEVKITS = {"devkit": "VOCdevkit/{0}/", "year": "{0}/", "inside": ""}

ALL: dict[tuple[str, str], Miniature] = {
    ("ade20k", "challenge"): ade20k("ADEChallengeData2016/"),
    ("ade20k", "inside"): ade20k(""),
    ("cityscapes", "train-ids"): cityscapes("labelTrainIds", list(range(19)), [255]),
    ("cityscapes", "ids"): cityscapes(
        "labelIds", CITYSCAPES_IDS, [label for label in (*range(34), 255) if label not in CITYSCAPES_IDS]
    ),
    ("coco_stuff", "prepared"): coco_stuff("images/", "annotations", prepared=True),
    ("coco_stuff", "annotations"): coco_stuff("images/", "annotations", prepared=False),
    ("coco_stuff", "stuffthingmaps"): coco_stuff("images/", "stuffthingmaps", prepared=False),
    ("coco_stuff", "beside"): coco_stuff("", "stuffthingmaps", prepared=False),
    ("camvid", "inside"): camvid(),
    ("isaid", "tiles"): isaid_tiles(),
    ("isaid", "colours"): isaid_colours("images", "Semantic_masks/images"),
    ("isaid", "colours-nested"): isaid_colours("images/images", "Semantic_masks/images"),
    ("isaid", "colours-flat"): isaid_colours("images", "Semantic_masks"),
}
for _layout, _folder in _DEVKITS.items():
    ALL["voc2012", _layout] = voc2012(_folder.format("VOC2012"))
    ALL["voc2012_aug", _layout] = voc2012(_folder.format("VOC2012"), "SegmentationClassAug", "trainaug")
    ALL["pascal_context", _layout] = pascal_context(_folder.format("VOC2010"), background=False)
    ALL["pascal_context60", _layout] = pascal_context(_folder.format("VOC2010"), background=True)

MINIATURES: list[tuple[str, str]] = list(ALL)
"""Name and layout of each miniature; the first layout of a name is what mmsegmentation expects."""


def _items(miniature: Miniature) -> list[tuple[str, str, int]]:
    """Return the split, the stem and the seed of each image."""
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    return [
        (split, stem, seed) for seed, (split, stem) in enumerate(zip(splits, miniature.stems, strict=True))
    ]


def write_miniature(name: str, layout: str, root: Path) -> None:
    """Write one miniature below `root`, which becomes the data set's ``--root``."""
    miniature = ALL[name, layout]
    ids = np.array([*miniature.ids, *miniature.ignored], np.uint8)
    for split, stem, seed in _items(miniature):
        drawn = cells(len(ids), seed)
        miniature.write_picture(root / miniature.path(miniature.image, split, stem), picture(drawn, seed))
        for template in miniature.more:
            path = root / miniature.path(template, split, stem)
            if path.suffix in (".png", ".jpg"):
                write_image(path, np.full((HEIGHT, WIDTH), 123, np.uint8))
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")
        miniature.write_label(root / miniature.path(miniature.label, split, stem), ids[drawn])
        if miniature.list:
            path = root / miniature.path(miniature.list, split)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(f"{stem}\n")


def expected_labels(name: str, layout: str, split: str) -> dict[str, np.ndarray]:
    """Return the class ids that must be read for each image of a split, by the path of the image below the root."""
    miniature = ALL[name, layout]
    classes = np.array([*range(len(miniature.ids)), *(IGNORED for _ in miniature.ignored)], np.uint8)
    return {
        miniature.path(miniature.image, split, stem): classes[cells(len(classes), seed)]
        for of_split, stem, seed in _items(miniature)
        if of_split == split
    }
