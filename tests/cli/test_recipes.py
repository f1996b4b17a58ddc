"""`segnext recipes`, and how `segnext train` and `segnext val` take a recipe's defaults."""

from pathlib import Path

import pytest
import yaml

from segnext.training.settings import TrainSettings
from tests.cli.commands import call
from tests.data.synthetic import write_data_set

SHORT = ["--steps", "2", "--warmup", "1", "--batch-size", "2", "--crop", "32", "--device", "cpu"]


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    """Return a tiny data set that is called as one of the paper's."""
    file = write_data_set(tmp_path_factory.mktemp("streets"))
    content = yaml.safe_load(file.read_text()) | {"name": "ade20k"}
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_list_names_all_recipes_with_the_papers_numbers(capsys):
    call("recipes")
    lines = capsys.readouterr().out.splitlines()
    (ade20k,) = [line.split() for line in lines if line.strip().startswith("ade20k")]
    assert ade20k == ["ade20k", "160k", "16", "512", "whole", "512", "41.1", "44.3", "48.5", "51.0"]
    assert max(map(len, lines)) <= 80


def test_one_recipe_is_shown_with_every_setting(capsys):
    call("recipes", "cityscapes")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["settings"].keys() == TrainSettings().as_json().keys()
    assert shown["evaluation"]["stride"] == 768 and shown["settings"]["crop"] == 1024


def test_a_run_takes_the_recipe_of_its_data_and_writes_it_down(streets, tmp_path, capsys):
    call("train", streets, "-o", tmp_path / "run", *SHORT, "--lr", "1e-3", "--drop-path", "0")
    assert "recipe: ade20k, with protocol official, short side 512\n" in capsys.readouterr().out
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["head_lr_multiplier"] == 10 and recipe["reduction"] == "mean_all"  # the recipe's
    assert recipe["lr"] == 1e-3 and recipe["crop"] == 32 and recipe["drop_path"] == 0  # the line's
    assert recipe["evaluation"] == "protocol official, short side 512"
    call("val", streets, "-w", tmp_path / "run" / "final.safetensors", "--multi-scale", "--scales", "1,0.5")
    said = capsys.readouterr().out
    assert "protocol official, short side 512, scales 1 0.5, mirrored too" in said


def test_another_recipe_by_name(streets, tmp_path, capsys):
    call("train", streets, "-o", tmp_path / "run", *SHORT, "--recipe", "small")
    assert "recipe:" not in capsys.readouterr().out
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["reduction"] == "mean" and recipe["lr"] == TrainSettings().lr
