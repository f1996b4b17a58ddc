"""The first layout that lies on disk is taken, and its keys replace those of the whole YAML."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.config import load_classes, load_data_config
from tests.data.synthetic import CLASSES, COLOURS, scene, write_data_set, write_yaml

PLACES = {"images": "images/train", "labels": "labels/train"}
COLOURED = {"train": {"images": "images/train", "labels": "colours"}, "color_labels": True}
COLOURED |= {"ignore_colors": [[0, 0, 0]]}


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "houses")


def test_the_first_one_that_is_there_is_taken(houses: Path) -> None:
    layouts = [{"path": "nowhere"}, {"label_map": {"0-2": 0}}, {"label_map": {0: 2, 1: 1, 2: 0}}]
    assert load_data_config(write_yaml(houses, layouts=layouts)).label_map == {0: 0, 1: 1, 2: 2}
    layouts.reverse()
    assert load_data_config(write_yaml(houses, layouts=layouts)).label_map == {0: 2, 1: 1, 2: 0}


def test_its_path_is_below_the_root(houses: Path, tmp_path: Path) -> None:
    yaml = write_yaml(tmp_path / "elsewhere.yaml", path="/nowhere", layouts=[{}, {"path": "houses"}])
    assert load_data_config(yaml, tmp_path).splits["val"].labels == tmp_path / "houses" / "labels" / "val"
    assert load_data_config(yaml, houses.parent).splits["val"].labels == houses.parent / "labels" / "val"
    assert len(load_data_config(yaml, tmp_path).open("train")) == 5


def test_splits_may_stand_in_the_layouts_alone(houses: Path) -> None:
    yaml = write_yaml(houses, train=None, val=None, layouts=[{"train": PLACES, "label_suffix": ".png"}])
    config = load_data_config(yaml)
    assert list(config.splits) == ["train"] and len(config.open("train")) == 5


def test_a_layout_of_colours_beside_one_of_ids(houses: Path) -> None:
    (houses.parent / "colours").mkdir()
    table = np.concatenate([COLOURS, np.zeros((253, 3), np.uint8)])
    for file in (houses.parent / "labels" / "train").iterdir():
        Image.fromarray(table[np.array(Image.open(file))]).save(houses.parent / "colours" / file.name)
    yaml = write_yaml(houses, val=None, layouts=[{}, COLOURED])
    assert load_data_config(yaml).color_labels is None
    shutil.rmtree(houses.parent / "labels")
    config = load_data_config(yaml)
    assert config.color_labels is True
    np.testing.assert_array_equal(config.open("train")[3][1], scene(3)[1])


@pytest.mark.parametrize("gone", ["images/train", "labels/train", "labels/train/*", "names.txt"])
def test_a_whole_layout_comes_before_one_that_lacks_something(houses: Path, gone: str) -> None:
    """An empty folder of labels lacks them; a layout that lacks a split is better than none."""
    names = houses.parent / "names.txt"
    names.write_text("scene00\n")
    layouts = [{"train": {**PLACES, "list": "names.txt"}}, {"path": "whole"}]
    yaml = write_yaml(houses, layouts=layouts, source="draw them")
    shutil.copytree(houses.parent, houses.parent.parent / "whole")
    (houses.parent.parent / "whole").rename(houses.parent / "whole")
    assert len(load_data_config(yaml).open("train")) == 1
    for path in list(houses.parent.glob(gone)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert len(load_data_config(yaml).open("train")) == 5
    shutil.rmtree(houses.parent / "whole")
    config = load_data_config(yaml)
    assert len(config.open("val")) == 2
    with pytest.raises(FileNotFoundError, match=r"train of houses must be there, got no .*; draw them"):
        config.open("train")


def test_none_is_there(houses: Path, tmp_path: Path) -> None:
    layouts = [
        {"path": "a"},
        {"label_suffix": "_ids"},
        {"train": {**PLACES, "list": "names.txt"}, "val": None},
    ]
    yaml = write_yaml(houses, layouts=layouts, source="draw them")
    with pytest.raises(
        FileNotFoundError,
        match=r"houses must lie in .* in one of its layouts, got no folder a/images/train, "
        r"no labels \*_ids in labels/train, no list names\.txt; draw them; give the data set's folder with --root",
    ) as error:
        load_data_config(yaml)
    assert "\n" not in str(error.value)


def test_classes_need_no_files(houses: Path) -> None:
    classes, palette = load_classes(write_yaml(houses, path="/nowhere", layouts=[{"path": "a"}]))
    assert classes == tuple(CLASSES) and palette == tuple(map(tuple, COLOURS.tolist()))
