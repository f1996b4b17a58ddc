"""Instances of COCO's JSON become masks, with the list and the YAML that `segnext doctor` reads."""

import numpy as np
import pytest

from segnext.data.config import load_data_config
from tests.data.prepare.files import counts, prepare, read_ids, write_json, write_png

# The category ids have gaps; the order in the file decides.
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def content_of(*names):
    objects = [
        (1, 3, [[0, 0, 2, 0, 2, 1, 0, 1]]),
        (1, 7, {"size": [3, 4], "counts": [7, 2, 3]}),
        (1, 7, {"size": [3, 4], "counts": ";1"}),
    ]
    return {
        "images": [
            {"id": number, "file_name": name, "width": 4, "height": 3} for number, name in enumerate(names, 1)
        ],
        "annotations": [
            {"id": index, "image_id": image, "category_id": category, "segmentation": segmentation}
            for index, (image, category, segmentation) in enumerate(objects)
        ],
        "categories": CATEGORIES,
    }


EXPECTED = [[2, 2, 2, 0], [2, 2, 1, 0], [0, 0, 1, 1]]


@pytest.fixture
def coco(tmp_path):
    """As COCO lies on disk: one object by polygon, one by RLE, one by RLE as text; the second image has none."""
    write_json(tmp_path / "annotations/instances_val2017.json", content_of("a.jpg", "sub/b.jpg"))
    write_json(tmp_path / "annotations/captions_val2017.json", {"images": [], "annotations": []})
    for name in ("a.jpg", "sub/b.jpg", "not listed.jpg"):
        write_png(tmp_path / "val2017" / name, np.zeros((3, 4, 3)))
    return tmp_path


def test_masks(coco):
    assert counts(prepare("coco_json", coco)) == (2, 0, 0)
    assert read_ids(coco / "labels/val/a.png") == EXPECTED
    assert read_ids(coco / "labels/val/sub/b.png") == np.zeros((3, 4)).tolist()


def test_an_ignored_background(coco):
    prepare("coco_json", coco, background=255)
    shifted = np.asarray(EXPECTED, np.uint8) - 1
    assert read_ids(coco / "labels/val/a.png") == shifted.tolist() and shifted[2, 0] == 255
    assert load_data_config(coco / "data.yaml").classes == ("dog", "cat")


@pytest.mark.parametrize("out", ["", "elsewhere"])
def test_the_yaml_opens_the_pairs(coco, out):
    prepare("coco_json", coco, coco / out)
    config = load_data_config(coco / out / "data.yaml")
    assert config.classes == ("background", "dog", "cat")
    dataset = config.open("val")
    assert len(dataset) == 2
    assert [label.tolist() for _, label in dataset] == [EXPECTED, np.zeros((3, 4)).tolist()]


def test_files_of_each_split_beside_their_images(tmp_path):
    """As Roboflow exports them, with a category for the background."""
    for folder, name in (("train", "a.jpg"), ("valid", "b.jpg")):
        content = content_of(name)
        content["categories"] = [{"id": 0, "name": "background"}, *CATEGORIES]
        write_json(tmp_path / folder / "_annotations.coco.json", content)
        write_png(tmp_path / folder / name, np.zeros((3, 4, 3)))
    assert counts(prepare("coco_json", tmp_path)) == (2, 0, 0)
    assert read_ids(tmp_path / "labels/train/a.png") == read_ids(tmp_path / "labels/val/b.png") == EXPECTED
    config = load_data_config(tmp_path / "data.yaml")
    assert [len(config.open(split)) for split in ("train", "val")] == [1, 1]


def test_other_categories_than_before(coco):
    prepare("coco_json", coco)
    with pytest.raises(ValueError, match="from an earlier call, got others"):
        prepare("coco_json", coco, background=255)
    assert counts(prepare("coco_json", coco, background=255, overwrite=True)) == (2, 0, 0)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[0, 0, 1]], "must be a list [x, y"),
        ([[0, 0, 1, 1]], "an outline must have 3"),
        ({"size": [3, 4], "counts": [1]}, "must fill its 3x4"),
        ({"size": [2, 2], "counts": [4]}, "the image's size 3x4"),
        ("a", "polygons or an RLE"),
    ],
    ids=str,
)
def test_a_bad_object_fails_its_image_alone(coco, segmentation, words):
    content = content_of("a.jpg", "sub/b.jpg")
    content["annotations"][1]["segmentation"] = segmentation
    write_json(coco / "annotations/instances_val2017.json", content)
    summary = prepare("coco_json", coco)
    assert counts(summary) == (1, 0, 1)
    assert "a.jpg: " in summary.failures[0] and words in summary.failures[0]


def test_faults_of_the_file(coco):
    file = coco / "annotations/instances_val2017.json"
    content = content_of("a.jpg")
    content["annotations"][0]["category_id"] = 99
    write_json(file, content)
    with pytest.raises(ValueError, match=r"instances_val2017\.json must have .* KeyError 99"):
        prepare("coco_json", coco)
    write_json(file, content_of("c.jpg"))
    with pytest.raises(FileNotFoundError, match=r"val2017/c\.jpg is missing; unpack the images"):
        prepare("coco_json", coco)
    write_json(coco / "annotations/instances_val2014.json", content_of("a.jpg"))
    write_json(file, content_of("a.jpg"))
    write_png(coco / "val2014/a.jpg", np.zeros((3, 4, 3)))
    with pytest.raises(ValueError, match="each split must have one file"):
        prepare("coco_json", coco)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"instances_val2017\.json must be JSON"):
        prepare("coco_json", coco)


@pytest.mark.parametrize(
    ("names", "words"),
    [(["a.jpg", "../c.jpg"], "below their folder"), (["a.jpg", "a.png"], "got 2 of a; rename")],
    ids=["leads-out", "one-mask-for-two"],
)
def test_names_that_cannot_be_masks(coco, names, words):
    write_json(coco / "annotations/instances_val2017.json", content_of(*names))
    with pytest.raises(ValueError, match=words):
        prepare("coco_json", coco)


def test_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"annotations/\*\.json is missing; put the file"):
        prepare("coco_json", tmp_path)
