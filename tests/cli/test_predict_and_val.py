"""One preprocessing: `segnext val` on the masks of `segnext predict` says 1.0, whatever the weights ask for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnext.cli.main import main
from segnext.data.preprocessing import MEAN, STD, Preprocessing
from segnext.models import SegNeXt
from segnext.weights import save
from tests.data.synthetic import scene, write_yaml
from tests.data.test_depth import deep_png
from tests.training.runs import narrow

RANGE = (300.0, 2100.0)


@pytest.fixture(scope="module")
def model() -> SegNeXt:
    network = narrow()
    with torch.no_grad():  # BN statistics of the data, so that every class is predicted somewhere
        batch = torch.cat([Preprocessing()(scene(seed)[0]) for seed in range(4)])
        for _ in range(10):
            network.train()(batch)
        network.decoder.classifier.weight.mul_(100)
    return network.eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with an image of 8 bits, and one of 12 bits in 16 that uses RANGE."""
    folder = tmp_path_factory.mktemp("set") / "images" / "val"
    folder.mkdir(parents=True)
    Image.fromarray(scene(7)[0]).save(folder / "a.png")
    low, high = RANGE
    values = low + scene(8, 51, 37)[0] * ((high - low) / 255)
    deep_png(folder / "b.png", values.round().astype(np.uint16))
    return folder


def command(*words: object) -> None:
    try:
        main([str(word) for word in words])
    except SystemExit as exit_:
        assert not exit_.code


@pytest.mark.parametrize(
    ("preprocessing", "words"),
    [
        ({"mean": [0.0] * 3, "std": [255.0] * 3}, ""),
        ({"mean": [90.0, 100.0, 130.0], "std": [30.0, 40.0, 90.0]}, ""),
        ({"short_side": 64}, ""),
        ({"short_side": 64}, "--short-side 0"),
        ({"short_side": 30}, "--mode slide --crop 24 --scales 0.75,1.25 --flip"),
        ({}, "--dtype bfloat16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value,
)
def test_the_masks_of_predict_are_perfect_labels(model, photos, tmp_path, preprocessing, words):
    weights, labels = tmp_path / "w.safetensors", photos.parent.parent / "labels" / "val"
    stored = {"mean": list(MEAN), "std": list(STD), "value_range": RANGE} | preprocessing
    save(model, weights, {"preprocessing": stored, "classes": ["ground", "roof", "door"]})
    command("predict", photos, "-w", weights, "-o", tmp_path / "out", "--no-overlay", *words.split())
    labels.mkdir(parents=True, exist_ok=True)
    for name in "ab":
        (labels / f"{name}.png").write_bytes((tmp_path / "out" / f"{name}_mask.png").read_bytes())
    data = write_yaml(labels.parent.parent / "houses.yaml", train=None)
    command("val", data, "-w", weights, "-o", tmp_path / "v.json", *words.split())
    result = json.loads((tmp_path / "v.json").read_text())
    confusion = np.array(result["confusion"])
    assert (confusion.sum(1) > 0).sum() >= 2
    assert confusion.trace() == confusion.sum() == 40 * 48 + 51 * 37
    assert result["pixel_accuracy"] == 1


def test_a_range_on_the_command_line_replaces_the_weights(model, photos, tmp_path):
    masks = []
    for stored, words in ((RANGE, ""), ((0, 65535), "--value-range 300,2100"), ((0, 65535), "")):
        weights, output = tmp_path / "w.safetensors", tmp_path / f"out{len(masks)}"
        save(model, weights, {"preprocessing": {"mean": MEAN, "std": STD, "value_range": stored}})
        command("predict", photos / "b.png", "-w", weights, "-o", output, *words.split())
        masks.append(np.asarray(Image.open(output / "b_mask.png")))
        summary = json.loads((output / "predictions.json").read_text())
        assert summary["preprocessing"]["value_range"] == list(RANGE if len(masks) < 3 else stored)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_a_range_that_is_none(photos, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["predict", str(photos), "-o", str(tmp_path / "out"), "--value-range", "9,0"])
    assert "segnext: preprocessing: value_range must be two finite numbers" in capsys.readouterr().err
