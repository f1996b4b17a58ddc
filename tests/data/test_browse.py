"""The sheet of a data set shows pairs of every split, and says where one cannot be read."""

import numpy as np
import pytest

from segnext.data.browse import IGNORED, browse, spread
from segnext.data.config import load_data_config
from segnext.drawing.contact_sheet import CELL, FAULT, GAP, LINE
from tests.data.synthetic import COLOURS, scene, write_data_set, write_pair


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"train": 100, "val": 50}, {"train": 6, "val": 6}),
        ({"train": 100, "val": 2}, {"train": 10, "val": 2}),
        ({"train": 100, "val": 2, "test": 90}, {"train": 5, "val": 2, "test": 5}),
        ({"train": 3, "val": 1}, {"train": 3, "val": 1}),
        ({}, {}),
    ],
    ids=str,
)
def test_pairs_are_spread_over_the_splits(sizes, expected):
    chosen = spread(sizes, 12)
    assert {split: len(indices) for split, indices in chosen.items()} == expected
    for split, indices in chosen.items():
        assert len(set(indices)) == len(indices) and indices[0] == 0
        assert indices[-1] == sizes[split] - 1 or len(indices) == 1


def cell(sheet: np.ndarray, column: int, row: int = 0) -> np.ndarray:
    left, top = GAP + column * (CELL[0] + GAP), GAP + row * (CELL[1] + LINE + GAP)
    return sheet[top : top + CELL[1], left : left + CELL[0]]


def test_masks_lie_over_the_photographs(tmp_path):
    yaml = write_data_set(tmp_path, train=1, val=0)
    image, label = scene(0, 240, 320)
    write_pair(tmp_path, "train", "scene00", image, label)
    write_pair(tmp_path, "val", "scene01", image // 2, np.full_like(label, 2))
    sheet = np.asarray(browse(load_data_config(yaml))).astype(int)
    train, val = cell(sheet, 0), cell(sheet, 1)
    inside = label.copy()
    inside[:2] = 7  # a light border between the ignored row and the first class
    for index, colour in enumerate(COLOURS.astype(int)):
        expected = (image[inside == index] + colour) // 2
        assert (np.abs(train[inside == index] - expected).max(1) <= 1).mean() > 0.97
    np.testing.assert_allclose(val[5:, 5:], (image[5:, 5:] // 2 + COLOURS[2].astype(int)) / 2, atol=1)
    below = sheet[GAP + CELL[1] + LINE + GAP :].reshape(-1, 3)  # the legend
    for colour in (*COLOURS.tolist(), IGNORED):
        assert (below == colour).all(1).sum() > 50, colour


def test_what_cannot_be_read_is_red(tmp_path):
    yaml = write_data_set(tmp_path, train=3, val=1)
    (tmp_path / "images/train/scene01.png").write_bytes(b"no image")
    write_pair(tmp_path, "train", "scene02", *scene(2, 40, 48))
    write_pair(tmp_path, "train", "scene02", np.zeros((10, 10, 3), np.uint8), scene(2)[1])  # another size
    (tmp_path / "labels/val/scene00.png").rename(
        tmp_path / "labels/val/other.png"
    )  # the split does not pair up
    sheet = np.asarray(browse(load_data_config(yaml)))
    red = [(cell(sheet, column) == FAULT).all(2).mean() for column in range(4)]
    assert red[0] > 0.7 and red[1] == 0 and red[2] > 0.7 and red[3] > 0.7
    assert all((cell(sheet, column) == 255).all(2).any() for column in (0, 2, 3))  # the reasons
