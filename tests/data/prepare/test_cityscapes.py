"""Cityscapes: polygons are drawn in order, with the ids of the 19 classes."""

import pytest

from segnext.data.prepare.cityscapes import CLASSES, VOID_NAMES, id_of
from tests.data.prepare.files import counts, prepare, read_ids, write_json


def box(label, left, top, right, bottom, **more):
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "polygon": corners, **more}


def write(root, *objects, split="train", name="aachen_0"):
    content = {"imgHeight": 4, "imgWidth": 6, "objects": list(objects)}
    return write_json(root / f"gtFine/{split}/aachen/{name}_gtFine_polygons.json", content)


def test_drawing(tmp_path):
    write(
        tmp_path,
        box("road", 0, 0, 5, 3),
        box("cargroup", 0, 0, 1, 1),
        box("sky", 0, 0, 5, 3, deleted=1),
        box("license plate", 0, 0, 5, 3),
        box("person", 1, 1, 2, 2, deleted=0),
        box("out of roi", 4, 0, 9, 9),
    )
    assert counts(prepare("cityscapes", tmp_path)) == (1, 0, 0)
    assert read_ids(tmp_path / "gtFine/train/aachen/aachen_0_gtFine_labelTrainIds.png") == [
        [13, 13, 0, 0, 255, 255],
        [13, 11, 11, 0, 255, 255],
        [0, 11, 11, 0, 255, 255],
        [0, 0, 0, 0, 255, 255],
    ]


def test_labels():
    assert len(CLASSES) == 19 and len(VOID_NAMES) == 15 and not VOID_NAMES & set(CLASSES)
    found = {name: id_of(name) for name in ("road", "bicyclegroup", "polegroup", "pole", "static", "trailer")}
    assert found == {
        "road": 0,
        "bicyclegroup": 18,
        "polegroup": 255,
        "pole": 5,
        "static": 255,
        "trailer": 255,
    }
    assert id_of("license plate") is None
    with pytest.raises(ValueError, match="got zebra"):
        id_of("zebra")


def test_a_bad_file_in_the_middle(tmp_path):
    for name in ("aachen_0", "aachen_2"):
        write(tmp_path, box("road", 0, 0, 5, 3), split="val", name=name)
    write(tmp_path, box("road", 0, 0, 5, 3), split="val", name="aachen_1").write_text('{"imgHeight": 4, "obj')
    summary = prepare("cityscapes", tmp_path)
    assert counts(summary) == (2, 0, 1) and "aachen_1_gtFine_polygons.json: " in summary.failures[0]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"label": "zebra", "polygon": []}, "zebra"),
        ({"label": "car", "polygon": [[0, 0]]}, "outline"),
        ({}, "label"),
    ],
)
def test_bad_objects(tmp_path, item, words):
    write(tmp_path, item)
    assert words in prepare("cityscapes", tmp_path).failures[0]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is missing; unpack gtFine_trainvaltest\.zip"):
        prepare("cityscapes", tmp_path)
