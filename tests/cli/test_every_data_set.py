"""Every data set of the paper: read, trained by its recipe, evaluated by its protocol.

The miniatures have the real names of folders and files, and the real ids; two steps of the smallest network are taken,
in smaller crops than the recipe's. `python -m tests.data.table` does this in all layouts on disk and prints a table;
here, each data set has one layout, and `tests/data/test_miniatures.py` reads the others.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from segnext.data.classification import open_class_folders
from segnext.training.recipes import load_recipe, recipe_for
from tests.cli.commands import call
from tests.data.class_folders import write_thousand_folders
from tests.data.miniatures import MINIATURES, write_miniature

SHORT = ["--steps", "2", "--warmup", "1", "--batch-size", "2", "--crop", "64", "--device", "cpu"]
PUBLISHED = {"protocol": "official", "mode": "whole", "short_side": 512, "crop": 1024}
PROTOCOLS = {
    "cityscapes": PUBLISHED | {"protocol": "native", "mode": "slide", "short_side": 0, "stride": 768},
    "isaid": PUBLISHED | {"protocol": "native", "mode": "slide", "short_side": 0, "crop": 896, "stride": 512},
    "camvid": {"protocol": "native", "mode": "whole", "short_side": 720},
}


def train_two_steps(name: str, root: Path, run: Path) -> None:
    """Train by the data set's recipe, in crops of 64 pixels."""
    call("train", name, "--root", root, "-o", run, *SHORT)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    expected = load_recipe(name) if name == "imagenet" else recipe_for(name)
    assert recipe["data"] == name and recipe["lr"] == expected.settings.get("lr", 1e-3)


def evaluate(name: str, root: Path, run: Path) -> dict[str, object]:
    """Evaluate with `segnext val`; assert that it agrees with the training's own evaluation. Return the measures."""
    measures = run.with_suffix(".json")
    call("val", name, "--root", root, "-w", run / "final.safetensors", "-o", measures)
    with safe_open(run / "final.safetensors", framework="pt") as file:
        trained = json.loads(file.metadata()["segnext"])["metrics"]
    found = json.loads(measures.read_text())
    measure = "top1" if name == "imagenet" else "miou"
    # weights are deployed by `val` and evaluated eagerly after a training
    assert found[measure] == pytest.approx(trained[measure], abs=0.02)
    return found


def evaluate_by_protocol(name: str, root: Path, run: Path) -> None:
    """Evaluate as the paper does; every class is in every miniature's label, so none is left out of the mean."""
    found = evaluate(name, root, run)
    assert found["inference"].items() >= PROTOCOLS.get(name, PUBLISHED).items()
    assert None not in found["class_accuracy"].values()


def read_imagenet(root: Path) -> None:
    """Read 1,000 class folders, one image each."""
    folders = open_class_folders(root)
    np.testing.assert_array_equal(folders.open("train").labels, np.arange(1000))
    for split in folders.splits:
        images = folders.open(split)
        for index in range(len(images)):
            image, label = images[index]
            assert image.shape == (24, 32, 3) and images.file(index).parent.name == folders.folders[label]


def evaluate_imagenet(root: Path, run: Path) -> None:
    """Count top-1 and top-5 over the validation images."""
    found = evaluate("imagenet", root, run)
    assert (found["images"], found["side"]) == (3, 64)


@pytest.mark.parametrize(("name", "layout"), {name: layout for name, layout in reversed(MINIATURES)}.items())
def test_two_steps_and_an_evaluation(name, layout, tmp_path):
    write_miniature(name, layout, tmp_path / "data")
    train_two_steps(name, tmp_path / "data", tmp_path / "run")
    evaluate_by_protocol(name, tmp_path / "data", tmp_path / "run")


def test_imagenet(tmp_path):
    root = write_thousand_folders(tmp_path / "data")
    read_imagenet(root)
    train_two_steps("imagenet", root, tmp_path / "run")
    evaluate_imagenet(root, tmp_path / "run")


def test_every_recipe_has_its_data_set():
    names = {name for name, _ in MINIATURES}
    assert {load_recipe(name).name for name in names - {"camvid"}} == names - {"camvid"}
