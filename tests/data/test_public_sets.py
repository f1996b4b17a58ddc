"""Public data sets are read as they lie on disk, by a YAML alone; the doctor agrees, and its advice works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segnext.data.advice import CITYSCAPES_MAP, values_advice
from segnext.data.config import DataConfig, load_data_config
from segnext.data.findings import judge
from segnext.data.inspection import inspect_split

# labels.py of cityscapesScripts: the ids of the 19 evaluated classes, in the order of their train ids
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def write(path: Path, ids: list[int] | None = None) -> None:
    """Write an image, or a label map with one column per id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ids is None:
        Image.new("RGB", (8, 4)).save(path)
    else:
        Image.fromarray(np.resize(np.array(ids, np.uint8), (4, 8))).save(path)


def config(folder: Path, classes: int, **keys: Any) -> DataConfig:
    content = {"path": ".", "classes": [f"c{index}" for index in range(classes)], **keys}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return load_data_config(folder / "data.yaml")


def both(images: str, labels: str, **more: str) -> dict[str, dict[str, str]]:
    """Return the two splits; their names replace {}."""
    places = {"images": images, "labels": labels, **more}
    return {split: {key: place.format(split) for key, place in places.items()} for split in ("train", "val")}


def healthy(data: DataConfig, split: str) -> list[str]:
    """Assert that the doctor finds no error; return the names of the split's images."""
    assert [finding for finding in judge(inspect_split(data, split)) if finding.level == "error"] == []
    return [image.name for image, _ in data.open(split).pairs]


def test_ade20k_has_ids_from_1_and_0_for_the_rest(tmp_path):
    for split in ("train", "val"):
        for index in (1, 2):
            write(tmp_path / "images" / split / f"ADE_{split}_0000000{index}.jpg")
            write(tmp_path / "annotations" / split / f"ADE_{split}_0000000{index}.png", [0, 1, 2, 150])
    data = config(tmp_path, 150, label_map={0: "ignore", "1-150": 0}, **both("images/{}", "annotations/{}"))
    assert healthy(data, "train") == ["ADE_train_00000001.jpg", "ADE_train_00000002.jpg"]
    assert data.open("val")[1][1][0].tolist() == [255, 0, 1, 149] * 2


def cityscapes(folder: Path) -> dict[str, dict[str, str]]:
    for split, city in (("train", "aachen"), ("val", "bonn")):
        stem = f"{city}/{city}_000000_000019"
        write(folder / "leftImg8bit" / split / f"{stem}_leftImg8bit.png")
        labels = folder / "gtFine" / split
        write(labels / f"{stem}_gtFine_labelIds.png", [0, 7, 8, 9, 26, 30, 33, 6])
        write(labels / f"{stem}_gtFine_labelTrainIds.png", [255, 0, 1, 255, 13, 255, 18, 255])
        write(labels / f"{stem}_gtFine_instanceIds.png", [7])
        write(labels / f"{stem}_gtFine_color.png")
        (labels / f"{stem}_gtFine_polygons.json").write_text("{}")
    return both("leftImg8bit/{}", "gtFine/{}")


@pytest.mark.parametrize(
    "keys",
    [
        {"label_suffix": "_gtFine_labelIds", "label_map": yaml.safe_load(CITYSCAPES_MAP)},
        {"label_suffix": "_gtFine_labelIds.png", "label_map": yaml.safe_load(CITYSCAPES_MAP)},
        {"label_suffix": "_gtFine_labelTrainIds"},
    ],
    ids=["ids", "ids-with-extension", "train-ids"],
)
def test_cityscapes_has_suffixes_and_34_ids(tmp_path, keys):
    data = config(tmp_path, 19, image_suffix="_leftImg8bit", **keys, **cityscapes(tmp_path))
    assert healthy(data, "val") == ["bonn_000000_000019_leftImg8bit.png"]
    assert data.open("train")[0][1][0].tolist() == [255, 0, 1, 255, 13, 255, 18, 255]


def test_the_map_of_cityscapes(tmp_path):
    places = {"images": "a", "labels": "b"}
    found = config(tmp_path, 19, label_map=yaml.safe_load(CITYSCAPES_MAP), train=places).label_map
    assert found is not None and sorted(found) == list(range(34))
    assert [label for label, target in sorted(found.items()) if target != 255] == CITYSCAPES_IDS
    assert [target for _, target in sorted(found.items()) if target != 255] == list(range(19))


def test_what_the_doctor_advises_for_cityscapes_is_taken(tmp_path):
    splits = cityscapes(tmp_path)
    suffixes = {"image_suffix": "_leftImg8bit", "label_suffix": "_gtFine_labelIds"}
    report = inspect_split(config(tmp_path, 19, **suffixes, **splits), "val")
    assert sorted(report.unknown) == [26, 30, 33]
    hint = values_advice(report)
    given = yaml.safe_load(hint.partition("add to the data YAML: ")[2].partition("; ")[0])
    healthy(config(tmp_path, 19, **suffixes, **given, **splits), "val")
    other = yaml.safe_load(hint.partition("if you have made them: ")[2])
    healthy(config(tmp_path, 19, image_suffix="_leftImg8bit", **other, **splits), "val")


def test_without_its_suffixes_cityscapes_gets_the_cure(tmp_path):
    with pytest.raises(
        ValueError, match=r"every image must have its partner .*; if more differs, .* label_suffix"
    ):
        config(tmp_path, 19, **cityscapes(tmp_path)).open("train")


def test_voc_has_lists_of_files(tmp_path):
    for index, ids in enumerate(([0, 20, 255], [1, 255], [5])):
        write(tmp_path / "JPEGImages" / f"2007_00{index}.jpg")
        write(tmp_path / "SegmentationClass" / f"2007_00{index}.png", ids)
    write(tmp_path / "JPEGImages" / "2008_only_detection.jpg")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_001\n2007_000\n\n")
    (lists / "val.txt").write_text("2007_002.jpg")
    splits = both("JPEGImages", "SegmentationClass", list="ImageSets/Segmentation/{}.txt")
    data = config(tmp_path, 21, **splits)
    assert healthy(data, "train") == ["2007_000.jpg", "2007_001.jpg"]
    assert healthy(data, "val") == ["2007_002.jpg"]


def test_coco_stuff_has_gaps_in_its_ids(tmp_path):
    """The raw ids 0..181 of 171 classes have eleven gaps, of which two are here."""
    for split in ("train", "val"):
        write(tmp_path / f"{split}2017" / "000000000009.jpg")
        write(tmp_path / "stuffthingmaps" / f"{split}2017" / "000000000009.png", [0, 10, 12, 24, 26, 255])
    label_map = {"0-10": 0, "12-24": 11, "26-27": 24}
    splits = both("{}2017", "stuffthingmaps/{}2017")
    data = config(tmp_path, 26, label_map=label_map, **splits)
    healthy(data, "train")
    assert data.open("val")[0][1][0].tolist() == [0, 10, 11, 23, 24, 255, 0, 10]
    write(tmp_path / "stuffthingmaps" / "val2017" / "000000000009.png", [0, 11])
    with pytest.raises(
        ValueError, match=r"must be in the data YAML's label_map, got 11 in 50 % of its pixels"
    ):
        data.open("val")[0]
    report = inspect_split(data, "val")
    assert "ids must be in the data YAML's label_map, got 11 in 50 % of all pixels" in judge(report)[0].text
    hint = values_advice(report)
    assert hint.startswith("add to label_map in the data YAML: 11: ignore; where such an id is a class")
    more = yaml.safe_load("{" + hint.partition("YAML: ")[2].partition(";")[0] + "}")
    healthy(config(tmp_path, 26, label_map=label_map | more, **splits), "val")


@pytest.mark.parametrize("ids", [[0, 1, 2], [1, 2], [0, 1, 40, 90], [17, 34], [17, 34, 255]], ids=str)
def test_advice_about_ids_is_taken(tmp_path, ids):
    for split in ("train", "val"):
        write(tmp_path / "i" / split / "a.png")
        write(tmp_path / "l" / split / "a.png", ids)
    splits = both("i/{}", "l/{}")
    hint = values_advice(inspect_split(config(tmp_path, 2, **splits), "train"))
    given = yaml.safe_load("label_map:" + hint.partition("label_map:")[2].partition("}")[0] + "}")
    data = config(tmp_path, 2, **splits, **given)
    healthy(data, "train")
    assert set(np.unique(data.open("train")[0][1])) <= {0, 1, 255}


def pascal(folder: Path, text: str | None) -> DataConfig:
    for name in ("a", "b"):
        write(folder / "i" / f"{name}.jpg")
    write(folder / "l" / "a.png", [0])
    if text is not None:
        (folder / "names.txt").write_text(text)
    return config(folder, 2, train={"images": "i", "labels": "l", "list": "names.txt"})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            None,
            FileNotFoundError,
            r"list must be a text file .*, got .*names\.txt, which does not exist; .* --root",
        ),
        ("", ValueError, r"names\.txt must name each file of the split once, one per line, got none"),
        ("a\na\n", ValueError, r"once, one per line, got a twice"),
        (
            "a\nc\n",
            ValueError,
            r"every name in .*names\.txt must have its image in .*i, got 1 of 2 without \(c\)",
        ),
        ("a\nb\n", ValueError, r"every name in .* must have its label in .*l, got 1 of 2 without \(b\)"),
        ("\x00\n", ValueError, r"must have its image in"),
    ],
    ids=["missing", "empty", "twice", "no-image", "no-label", "binary"],
)
def test_mistakes_in_a_list(tmp_path, text, error, message):
    with pytest.raises(error, match=message) as caught:
        pascal(tmp_path, text).open("train")
    assert "\n" not in str(caught.value)
    assert len(pascal(tmp_path, "a\n").open("train")) == 1


def test_a_suffix_that_no_file_has(tmp_path):
    write(tmp_path / "i" / "a.jpg")
    write(tmp_path / "l" / "a.png", [0])
    data = config(tmp_path, 2, label_suffix="_ids", train={"images": "i", "labels": "l"})
    with pytest.raises(
        FileNotFoundError, match=r"l must hold labels whose names end with _ids \(.*\), got none"
    ):
        data.open("train")


def test_images_and_labels_in_one_folder(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "all" / f"{name}_photo.png")
        write(tmp_path / "all" / f"{name}_mask.png", [0, 1])
    suffixes = {"image_suffix": "_photo", "label_suffix": "_mask"}
    data = config(tmp_path, 2, **suffixes, train={"images": "all", "labels": "all"})
    assert healthy(data, "train") == ["a_photo.png", "b_photo.png"]
