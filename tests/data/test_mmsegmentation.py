"""The shipped data sets agree with the real package mmsegmentation, which is in an environment of its own.

`make interop` makes that environment; SEGNEXT_MMSEG_PYTHON names the interpreter of another one.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segnext.data.config import DataConfig, load_data_config
from segnext.data.shipped import list_sets
from tests.data.miniatures import MINIATURES, write_miniature
from tests.data.mmseg_facts import CLASSES
from tests.interop.mmsegmentation import PYTHON, needs_mmsegmentation

NAMES = [name for name in list_sets() if name != "camvid"]  # mmsegmentation has no CamVid

pytestmark = needs_mmsegmentation


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    script = Path(__file__).with_name("mmseg_facts.py")
    done = subprocess.run([PYTHON, "-I", script], capture_output=True, text=True, check=True)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def ours(name: str, folder: Path, layout: str | None = None) -> DataConfig:
    """Return a shipped data set in the named layout; by default in that of mmsegmentation, which comes first."""
    write_miniature(name, layout or next(layout for found, layout in MINIATURES if found == name), folder)
    return load_data_config(name, folder)


@pytest.mark.parametrize("name", NAMES)
def test_classes_palettes_and_the_ignored_id(name: str, theirs: dict[str, Any], tmp_path: Path) -> None:
    data, facts = ours(name, tmp_path), theirs["sets"][name]
    assert list(data.classes) == [label.strip() for label in facts["classes"]]  # theirs has "bed " in ADE20K
    assert [list(colour) for colour in data.palette] == facts["palette"]
    assert data.ignore_index == facts.get("ignore_index", 255)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_each_split(name: str, theirs: dict[str, Any], tmp_path: Path) -> None:
    """Both find the same pairs, by folder, list and suffix."""
    data, facts = ours(name, tmp_path), theirs["sets"][name]
    for split, places in zip(("train", "val"), theirs["places"][name], strict=True):
        files = data.splits[split]
        assert str(files.images).endswith(places["img_path"])
        assert str(files.labels).endswith(places["seg_map_path"])
        if (
            name == "voc2012_aug"
        ):  # theirs is train.txt and aug.txt one after the other, which trainaug.txt holds
            places["ann_file"] = places["ann_file"].replace("/aug.txt", "/trainaug.txt")
        assert str(files.list or "").endswith(places["ann_file"]) and bool(files.list) == bool(
            places["ann_file"]
        )
        for image, label in data.open(split).pairs:
            stem = str(image.relative_to(files.images)).removesuffix(facts["img_suffix"])
            assert stem != str(image.relative_to(files.images))
            assert label == files.labels / (stem + facts["seg_map_suffix"])


@pytest.mark.parametrize("name", NAMES)
def test_what_the_ids_in_the_files_mean(name: str, theirs: dict[str, Any], tmp_path: Path) -> None:
    """`reduce_zero_label` is the one map that mmsegmentation applies: 0 is ignored, and 1 is taken from all others."""
    data, count = ours(name, tmp_path), len(theirs["sets"][name]["classes"])
    if theirs["sets"][name].get("reduce_zero_label"):
        assert data.label_map == {0: 255} | {label: label - 1 for label in range(1, count + 1)}
    else:
        assert data.label_map is None
    assert not data.color_labels


def test_raw_labels_of_coco_stuff(theirs: dict[str, Any], tmp_path: Path) -> None:
    label_map = ours("coco_stuff", tmp_path, "stuffthingmaps").label_map
    assert label_map is not None
    converted = dict(theirs["tables"]["coco_stuff164k"])
    assert {label: label_map[label] for label in converted} == converted
    # The ids between them are no class, and the converter leaves them as they are.
    assert {label_map[label] for label in label_map.keys() - converted.keys()} == {255}
    assert sorted(label_map) == [*range(182), 255]


def test_raw_labels_of_isaid(theirs: dict[str, Any], tmp_path: Path) -> None:
    data = ours("isaid", tmp_path, "colours")
    assert data.color_labels and data.ignore_colors == ()
    assert dict(theirs["tables"]["isaid"]) == {
        index: list(colour) for index, colour in enumerate(data.palette)
    }


def test_both_read_the_same_pixels(theirs: dict[str, Any], tmp_path: Path) -> None:
    """mmsegmentation itself opens the miniatures, by the places of its configurations."""
    requests, expected = [], []
    for name in NAMES:
        data = ours(name, tmp_path / name)
        for split, places in zip(("train", "val"), theirs["places"][name], strict=True):
            root = next(
                parent
                for parent in data.splits[split].images.parents
                if (parent / places["img_path"]).is_dir()
            )
            prefix = {key: places[key] for key in ("img_path", "seg_map_path")}
            lists = str(data.splits[split].list or "")
            arguments = {"data_root": str(root), "data_prefix": prefix, "ann_file": lists}
            requests.append({"class": CLASSES[name][1], "arguments": arguments})
            opened = data.open(split)
            expected.append({str(image): opened[index][1] for index, (image, _) in enumerate(opened.pairs)})
    script = Path(__file__).with_name("mmseg_labels.py")
    done = subprocess.run(
        [PYTHON, script, tmp_path], input=json.dumps(requests), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for number, labels in enumerate(expected):
        read = np.load(tmp_path / f"{number}.npz")
        assert {f"/{path.lstrip('/')}" for path in read.files} == set(labels)
        for path in read.files:
            np.testing.assert_array_equal(read[path], labels[f"/{path.lstrip('/')}"])
