"""Every data set of the paper: read, trained by its recipe, evaluated by its protocol.

The miniatures have the real names of folders and files, and the real ids; two steps of the smallest network are taken,
in smaller crops than the recipe's. `tests/data/test_miniatures.py` reads all other layouts on disk.
"""

import json
import re

import pytest
import yaml

from segnext.cli.main import main
from segnext.training.recipes import load_recipe, recipe_for
from tests.data.miniatures import MINIATURES, write_miniature

SHORT = ["--steps", "2", "--warmup", "1", "--batch-size", "2", "--crop", "64", "--device", "cpu"]
PUBLISHED = {"protocol": "official", "mode": "whole", "short_side": 512, "crop": 1024}
PROTOCOLS = {
    "cityscapes": PUBLISHED | {"protocol": "native", "mode": "slide", "short_side": 0, "stride": 768},
    "isaid": PUBLISHED | {"protocol": "native", "mode": "slide", "short_side": 0, "crop": 896, "stride": 512},
    "camvid": {"protocol": "native", "mode": "whole", "short_side": 360},
}


def call(*words: object) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    assert exit_.value.code == 0


@pytest.mark.parametrize(("name", "layout"), {name: layout for name, layout in reversed(MINIATURES)}.items())
def test_two_steps_and_an_evaluation(name, layout, tmp_path, capsys):
    write_miniature(name, layout, tmp_path / "data")
    call("train", name, "--root", tmp_path / "data", "-o", tmp_path / "run", *SHORT)
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["data"] == name and recipe["lr"] == recipe_for(name).settings.get("lr", 1e-3)
    trained = re.search(r"mIoU (\S+)\n", capsys.readouterr().out)
    assert trained is not None
    measures = tmp_path / "val.json"
    call(
        "val", name, "--root", tmp_path / "data", "-w", tmp_path / "run" / "final.safetensors", "-o", measures
    )
    found = json.loads(measures.read_text())
    assert found["inference"].items() >= PROTOCOLS.get(name, PUBLISHED).items()
    # every class is in every miniature's label, so none is left out of the mean
    assert None not in found["class_accuracy"].values()
    assert found["miou"] == pytest.approx(
        float(trained[1]), abs=0.02
    )  # deployed; trained weights are evaluated eagerly


def test_every_recipe_has_its_data_set():
    names = {name for name, _ in MINIATURES}
    assert {load_recipe(name).name for name in names - {"camvid"}} == names - {"camvid"}
