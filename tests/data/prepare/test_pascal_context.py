"""Pascal Context: both public forms give the same ids and lists."""

from pathlib import Path

import numpy as np
import pytest

from segnext.data.prepare.pascal_context import IDS, NAMES
from tests.data.prepare.files import counts, prepare, read_ids, write_json, write_text

EXPECTED = {"2008_a": [[0, 1, 1], [59, 0, 40]], "2008_b": [[55], [55]]}


def write_merged(root: Path) -> dict:
    """Aeroplane is 2, wood 458, pottedplant 308, and tvmonitor 427 over wall 440."""
    segments = [
        ("1", 2, [2, 3], [2, 1, 1, 2]),
        ("1", 458, [2, 3], [1, 1, 4]),
        ("1", 308, [2, 3], [5, 1]),
        ("2", 440, [2, 1], [0, 2]),
        ("2", 427, [2, 1], "02"),
    ]
    content = {
        "images": [
            {"image_id": "1", "file_name": "2008_a.jpg", "phase": "train", "height": 2, "width": 3},
            {"image_id": "2", "file_name": "2008_b.jpg", "phase": "val", "height": 2, "width": 1},
            {"image_id": "3", "file_name": "2008_c.jpg", "phase": "test", "height": 2, "width": 1},
        ],
        "annos_segmentation": [
            {"image_id": image, "category_id": category, "segmentation": {"size": size, "counts": runs}}
            for image, category, size, runs in segments
        ],
    }
    write_json(root / "trainval_merged.json", content)
    return content


def write_matlab(root: Path) -> None:
    """Other ids than the JSON file's: the names in labels.txt decide."""
    scipy_io = pytest.importorskip("scipy.io")
    numbers = {name: 459 - index for index, name in enumerate(NAMES)}
    shown = {"pottedplant": "potted plant"}
    lines = [f"{number}: {shown.get(name, name)}" for name, number in numbers.items()]
    write_text(root / "labels.txt", "\n".join(["1: accordion", *lines]))
    for split, name in (("train", "2008_a"), ("val", "2008_b")):
        write_text(root / f"ImageSets/Main/{split}.txt", f"2008_without_label\n{name}\n")
    (root / "trainval").mkdir()
    for name, classes in EXPECTED.items():
        ids = [[numbers[NAMES[index - 1]] if index else 1 for index in row] for row in classes]
        scipy_io.savemat(root / f"trainval/{name}.mat", {"LabelMap": np.asarray(ids, np.uint16)})


@pytest.mark.parametrize("write", [write_merged, write_matlab], ids=["json", "mat"])
def test_ids_and_lists(tmp_path, write):
    write(tmp_path)
    assert counts(prepare("pascal_context", tmp_path)) == (2, 0, 0)
    made = {path.stem: read_ids(path) for path in (tmp_path / "SegmentationClassContext").iterdir()}
    assert made == EXPECTED
    lists = tmp_path / "ImageSets/SegmentationContext"
    assert (lists / "train.txt").read_text() == "2008_a\n" and (lists / "val.txt").read_text() == "2008_b\n"


def test_names_and_ids_follow_the_alphabet():
    assert len(NAMES) == len(IDS) == 59
    assert list(NAMES) == sorted(NAMES) and list(IDS) == sorted(IDS)


def test_a_bad_annotation_fails_alone(tmp_path):
    content = write_merged(tmp_path)
    content["annos_segmentation"][1]["segmentation"]["counts"] = [1, 1]
    write_json(tmp_path / "trainval_merged.json", content)
    summary = prepare("pascal_context", tmp_path)
    assert counts(summary) == (1, 0, 1) and "2008_a.jpg: the runs of an RLE must fill" in summary.failures[0]


def test_a_mask_of_another_size_fails(tmp_path):
    content = write_merged(tmp_path)
    content["images"][0]["width"] = 4
    write_json(tmp_path / "trainval_merged.json", content)
    assert "the image's size 2x4" in prepare("pascal_context", tmp_path).failures[0]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"trainval_merged\.json is missing; put .* trainval\.tar\.gz"
    ):
        prepare("pascal_context", tmp_path)
    write_matlab(tmp_path)
    (tmp_path / "labels.txt").rename(tmp_path / "names.txt")
    with pytest.raises(FileNotFoundError, match=r"labels\.txt is missing; download"):
        prepare("pascal_context", tmp_path)
    write_text(tmp_path / "labels.txt", "1: accordion\n2: aeroplane\n")
    with pytest.raises(ValueError, match=r"must name all 59 classes .* none for bag"):
        prepare("pascal_context", tmp_path)


def test_another_json_file(tmp_path):
    write_json(tmp_path / "trainval_merged.json", {"images": []})
    with pytest.raises(ValueError, match="KeyError 'annos_segmentation'; download it again"):
        prepare("pascal_context", tmp_path)
