"""Shipping a run writes a file, its numbers and its card, which belong together."""

import torch
from safetensors import safe_open

from segnext import create_model
from segnext.data.config import load_data_config
from segnext.evaluation.evaluate import evaluate
from tests.data.synthetic import CLASSES, write_data_set
from tests.training.runs import run
from tools import ship_weights as shipping


def test_the_card_tells_the_numbers_of_the_file(tmp_path, monkeypatch):
    yaml = write_data_set(tmp_path / "houses")
    data = load_data_config(yaml)
    run(data, tmp_path / "run", steps=3)
    monkeypatch.setattr(shipping, "load_data_config", lambda name, root: data)
    (tmp_path / "out").mkdir()
    metrics = shipping.ship(tmp_path / "run", "houses", tmp_path, "Painted houses.", tmp_path / "out")

    path = tmp_path / "out" / "houses.safetensors"
    model = create_model(weights=path).eval()
    assert evaluate(model, data.open("val")).summary(data.classes) == metrics == model.metadata["metrics"]
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("backbone.stem.conv1.weight").dtype == torch.float16
        assert file.get_tensor("decoder.hamburger.bases").dtype == torch.float32
    card = (tmp_path / "out" / "houses.md").read_text()
    assert card.startswith("# houses\n\nPainted houses.\n") and f"mIoU {metrics['miou']:.4f}" in card
    assert all(f"| {name} | {metrics['class_iou'][name]:.3f} |" in card for name in CLASSES)
