"""COCO-Stuff: the 182 ids become 171 without gaps."""

import numpy as np
import pytest

from segnext.data.prepare.coco_stuff import UNUSED, class_of_each
from segnext.data.prepare.plan import Request, plan
from tests.data.prepare.files import counts, prepare, read_ids, write_png


def test_known_ids():
    """Zero-based: 10 fire hydrant, 12 stop sign, 89 toothbrush, 91 banner, 181 wood."""
    classes = class_of_each()
    assert [classes[raw] for raw in (0, 10, 12, 89, 91, 181)] == [0, 10, 11, 79, 80, 170]
    assert sorted(classes.values()) == list(range(171)) and not classes.keys() & set(UNUSED)


@pytest.mark.parametrize("folder", ["stuffthingmaps", "annotations"])
def test_labels(tmp_path, folder):
    raw = [[0, 12, 255], [91, 181, 11]]
    write_png(tmp_path / folder / "train2017/0001.png", raw)
    write_png(tmp_path / folder / "val2017/0002.png", np.full((3, 1), 89))
    for expected in ((2, 0, 0), (0, 2, 0)):
        assert counts(prepare("coco_stuff", tmp_path)) == expected
    annotations = tmp_path / "annotations"
    assert read_ids(annotations / "train2017/0001_labelTrainIds.png") == [[0, 11, 255], [80, 170, 255]]
    assert read_ids(annotations / "val2017/0002_labelTrainIds.png") == [[79], [79], [79]]


@pytest.mark.parametrize("raw", [182, 254])
def test_an_id_above_the_last_one_fails(tmp_path, raw):
    write_png(tmp_path / "stuffthingmaps/val2017/1.png", [[0, raw]])
    assert f"got {raw}" in prepare("coco_stuff", tmp_path).failures[0]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"unpack stuffthingmaps_trainval2017\.zip"):
        prepare("coco_stuff", tmp_path)
    write_png(tmp_path / "stuffthingmaps/val2017/1.png", [[0]])
    assert plan(Request("coco_stuff", tmp_path, tmp_path)).notes == (
        "stuffthingmaps/train2017 is not there: it is left out",
    )
