"""What is prepared has the places and ids that the shipped data YAML of the same name expects."""

from pathlib import Path

import numpy as np
import pytest

from segnext.data.config import load_data_config
from segnext.data.prepare.isaid import PALETTE
from segnext.data.prepare.pascal_context import IDS
from tests.data.prepare.files import counts, prepare, write_json, write_png, write_text

WIDTH = 3  # each label here is one row of three pixels


def photo(root: Path, name: str) -> None:
    write_png(root / name, np.zeros((1, WIDTH, 3)))


def voc2012_aug(root: Path) -> None:
    """Dog and void by VOC, for training; 20 and 12 by SBD, for training; bus by VOC, for validation."""
    scipy_io = pytest.importorskip("scipy.io")
    for name in "abc":
        photo(root, f"JPEGImages/{name}.jpg")
    write_png(root / "SegmentationClass/a.png", [[0, 12, 255]])
    write_png(root / "SegmentationClass/c.png", [[6, 6, 0]])
    (root / "benchmark_RELEASE/dataset/cls").mkdir(parents=True)
    structure = {"Segmentation": np.array([[20, 12, 0]], np.uint8)}
    scipy_io.savemat(root / "benchmark_RELEASE/dataset/cls/b.mat", {"GTcls": structure})
    lists = {"ImageSets/Segmentation/train": "a", "ImageSets/Segmentation/val": "c"}
    sbd = {"benchmark_RELEASE/dataset/train": "b", "benchmark_RELEASE/dataset/val": "c"}
    for name, text in {**lists, **sbd}.items():
        write_text(root / f"{name}.txt", text)


def pascal_context(root: Path) -> None:
    images, annotations = [], []
    for name, phase, label in (("a", "train", IDS[0]), ("b", "val", IDS[58])):
        photo(root, f"JPEGImages/{name}.jpg")
        images.append(
            {"image_id": name, "file_name": f"{name}.jpg", "phase": phase, "height": 1, "width": WIDTH}
        )
        rle = {"size": [1, WIDTH], "counts": [1, 2]}
        annotations.append({"image_id": name, "category_id": label, "segmentation": rle})
    write_json(root / "trainval_merged.json", {"images": images, "annos_segmentation": annotations})


def coco_stuff(root: Path) -> None:
    for split, row in (("train2017", [0, 12, 255]), ("val2017", [91, 181, 89])):
        photo(root, f"images/{split}/1.jpg")
        write_png(root / f"stuffthingmaps/{split}/1.png", [row])


def cityscapes(root: Path) -> None:
    for split, label in (("train", "bicyclegroup"), ("val", "road")):
        photo(root, f"leftImg8bit/{split}/ulm/ulm_0_leftImg8bit.png")
        outline = {"label": label, "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}
        content = {"imgHeight": 1, "imgWidth": WIDTH, "objects": [outline]}
        write_json(root / f"gtFine/{split}/ulm/ulm_0_gtFine_polygons.json", content)


def isaid(root: Path) -> None:
    for split, ids in (("train", [1, 15, 0]), ("val", [7, 7, 8])):
        photo(root, f"{split}/images/images/P1.png")
        colours = [[PALETTE[index] for index in ids]]
        write_png(root / f"{split}/Semantic_masks/images/P1_instance_color_RGB.png", colours)


@pytest.mark.parametrize(
    ("write", "train", "val"),
    [
        (voc2012_aug, [[0, 12, 255], [20, 12, 0]], [[6, 6, 0]]),
        (pascal_context, [[255, 0, 0]], [[255, 58, 58]]),
        (coco_stuff, [[0, 11, 255]], [[80, 170, 79]]),
        (cityscapes, [[18, 18, 255]], [[0, 0, 255]]),
        (isaid, [[1, 15, 0]], [[7, 7, 8]]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_shipped_yaml_reads_what_was_prepared(tmp_path, write, train, val):
    write(tmp_path)
    assert counts(prepare(write.__name__, tmp_path))[1:] == (0, 0)
    config = load_data_config(write.__name__, tmp_path)
    for split, expected in (("train", train), ("val", val)):
        labels = [label for _, label in config.open(split)]
        assert [label[0, :WIDTH].tolist() for label in labels] == expected
