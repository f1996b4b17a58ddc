"""labelme's shapes become masks; labels get ids by a list or by a census."""

import numpy as np
import pytest

from segnext.data.config import load_data_config
from tests.data.prepare.files import counts, prepare, read_ids, write_json, write_png


def write(root, name, *shapes, **more):
    content = {"imageHeight": 5, "imageWidth": 6, "imagePath": f"{name}.png", "shapes": list(shapes), **more}
    write_png(root / f"{name}.png", np.zeros((5, 6, 3)))
    return write_json(root / f"{name}.json", content)


def shape(label, kind, *points):
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points], "flags": {}}


SHAPES = (
    shape("road", "rectangle", (5, 4), (0, 3)),
    shape("car", "polygon", (0, 0), (2, 0), (0, 2)),
    shape("sun", "circle", (4, 1), (4, 0)),
    shape("__ignore__", "rectangle", (0, 4), (1, 4)),
    shape("_background_", "rectangle", (5, 4), (5, 4)),
)
EXPECTED = [
    [1, 1, 1, 0, 3, 0],
    [1, 1, 0, 3, 3, 3],
    [1, 0, 0, 0, 3, 0],
    [2, 2, 2, 2, 2, 2],
    [255, 255, 2, 2, 2, 0],
]


def test_shapes_with_a_census(tmp_path):
    write(tmp_path, "day/a", *SHAPES)
    assert counts(prepare("labelme", tmp_path)) == (1, 0, 0)
    assert read_ids(tmp_path / "labels/day/a.png") == EXPECTED
    config = load_data_config(tmp_path / "data.yaml")
    assert config.classes == ("background", "car", "road", "sun")
    assert [label.tolist() for _, label in config.open("train")] == [EXPECTED]


def test_a_list_of_classes_and_an_ignored_background(tmp_path):
    write(tmp_path, "a", shape("road", "rectangle", (1, 1), (3, 2)))
    prepare("labelme", tmp_path, classes=("sky", "road"), background=255)
    expected = np.full((5, 6), 255)
    expected[1:3, 1:4] = 1
    assert read_ids(tmp_path / "labels/a.png") == expected.tolist()
    assert load_data_config(tmp_path / "data.yaml").classes == ("sky", "road")


def test_a_photograph_without_shapes_is_left_out(tmp_path):
    write(tmp_path, "a", *SHAPES)
    write_png(tmp_path / "b.png", np.zeros((5, 6, 3)))
    prepare("labelme", tmp_path)
    assert len(load_data_config(tmp_path / "data.yaml").open("train")) == 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (shape("road", "line", (0, 0), (1, 1)), "polygons, rectangles or circles, got line"),
        (shape("sky", "polygon", (0, 0), (1, 1)), "an outline must have 3"),
        (shape("dog", "polygon", (0, 0), (1, 1), (2, 2)), "labels must be among road, sky, got dog"),
        ({"label": 3}, "must be a file of labelme"),
    ],
    ids=str,
)
def test_a_bad_shape_fails_its_file_alone(tmp_path, bad, words):
    for name in ("a", "c"):
        write(tmp_path, name, shape("road", "rectangle", (0, 0), (1, 1)))
    write(tmp_path, "b", bad)
    summary = prepare("labelme", tmp_path, classes=("road", "sky"))
    assert counts(summary) == (2, 0, 1)
    assert "b.json: " in summary.failures[0] and words in summary.failures[0]


def test_the_census_leaves_out_a_damaged_file(tmp_path):
    write(tmp_path, "a", *SHAPES)
    write(tmp_path, "b").write_text('{"shapes": [')
    assert counts(prepare("labelme", tmp_path)) == (1, 0, 1)


def test_ids_never_change_in_silence(tmp_path):
    """A file that is mended, or new, may have a label that sorts before the others."""
    write(tmp_path, "a", *SHAPES)
    prepare("labelme", tmp_path)
    write(tmp_path, "b", shape("apple", "rectangle", (0, 0), (1, 1)))
    with pytest.raises(ValueError, match="make all masks again with --overwrite"):
        prepare("labelme", tmp_path)
    assert counts(prepare("labelme", tmp_path, overwrite=True)) == (2, 0, 0)
    assert read_ids(tmp_path / "labels/b.png")[0] == [1, 1, 0, 0, 0, 0]


def test_without_a_size(tmp_path):
    write(tmp_path, "a", *SHAPES, imageHeight=None)
    assert "width and height must be pixels, got 6 and None" in prepare("labelme", tmp_path).failures[0]


@pytest.mark.parametrize("classes", [("road", "road"), (), ("a\nb", "c")], ids=str)
def test_wrong_classes(tmp_path, classes):
    write(tmp_path, "a", *SHAPES)
    with pytest.raises(ValueError, match="classes|names in"):
        prepare("labelme", tmp_path, classes=classes)


def test_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\*\.json is missing; save labelme's files"):
        prepare("labelme", tmp_path)
