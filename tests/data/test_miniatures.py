"""Each shipped data set is opened by its name in each of its layouts, and gives exactly the expected class ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segnext.data.config import load_data_config
from segnext.data.findings import judge
from segnext.data.inspection import inspect_split
from segnext.data.shipped import list_sets
from tests.data.miniatures import HEIGHT, MINIATURES, SPLITS, WIDTH, expected_labels, write_miniature


@pytest.mark.parametrize(("name", "layout"), MINIATURES)
def test_a_shipped_set_is_read_in_each_layout(name: str, layout: str, tmp_path: Path) -> None:
    write_miniature(name, layout, tmp_path)
    data = load_data_config(name, tmp_path)
    assert data.name == name and list(data.splits) == list(SPLITS)
    for split in SPLITS:
        expected = expected_labels(name, layout, split)
        opened = data.open(split)
        assert [image.relative_to(tmp_path).as_posix() for image, _ in opened.pairs] == list(expected)
        for (image, label), wanted in zip(
            (opened[index] for index in range(len(opened))), expected.values(), strict=True
        ):
            assert image.shape == (HEIGHT, WIDTH, 3)
            np.testing.assert_array_equal(label, wanted)
            assert set(np.unique(label)) - {data.ignore_index} == set(range(len(data.classes)))
        assert [finding for finding in judge(inspect_split(data, split)) if finding.level == "error"] == []


def test_each_shipped_set_has_a_miniature() -> None:
    assert sorted({name for name, _ in MINIATURES}) == list_sets()


@pytest.mark.parametrize("name", sorted({name for name, _ in MINIATURES} - {"camvid"}))  # it has one layout
def test_an_empty_folder_gets_what_each_layout_looked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=rf"{name} must lie in .* got no folder .*; .*--root"
    ) as error:
        load_data_config(name, tmp_path)
    assert "\n" not in str(error.value)


def test_sets_to_be_prepared_say_how(tmp_path: Path) -> None:
    """VOC 2012 without the labels of SBD has the same images and validation set."""
    write_miniature("voc2012", "devkit", tmp_path)
    data = load_data_config("voc2012_aug", tmp_path)
    assert len(data.open("val")) == 1
    with pytest.raises(
        FileNotFoundError,
        match=r"train of voc2012_aug must be there, got no folder .*Aug; segnext data prepare voc2012_aug",
    ):
        data.open("train")


def test_the_two_sides_of_a_layout_may_both_be_there(tmp_path: Path) -> None:
    """Raw labels beside prepared ones, and two levels of folders, do not change what is read."""
    for layout in ("ids", "train-ids"):
        write_miniature("cityscapes", layout, tmp_path / "cityscapes")
    assert load_data_config("cityscapes", tmp_path / "cityscapes").label_suffix == "_gtFine_labelTrainIds"
    write_miniature("coco_stuff", "stuffthingmaps", tmp_path / "coco")
    write_miniature("coco_stuff", "prepared", tmp_path / "coco")
    assert load_data_config("coco_stuff", tmp_path / "coco").label_suffix == "_labelTrainIds"
