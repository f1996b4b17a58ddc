"""Tests that a deployed model owns its weights, can be copied and pickled, and reads only files that fit."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrizations, prune

from segnext import Predictor, deploy
from segnext.deployment.files import expected_shapes
from segnext.deployment.folding import by_name
from segnext.deployment.model import DeployedSegNeXt, reason_against
from segnext.models import SegNeXt
from tests.models.narrow import narrow

Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_and_pickles(again: Callable[[Any], Any]) -> None:
    model, images = narrow(), torch.randn(1, 3, 40, 48)
    fast, logits = deploy(model, torch.bfloat16), None
    logits = fast.forward_logits(images)
    twin = again(fast)
    assert twin.dtype == torch.bfloat16 and twin.config == fast.config
    assert torch.equal(twin.forward_logits(images), logits)
    assert torch.equal(again(model)(images), model(images))
    predictor, photograph = Predictor(model), torch.randint(0, 256, (33, 47, 3), dtype=torch.uint8).numpy()
    assert (again(predictor)(photograph).mask == predictor(photograph).mask).all()


def test_shares_nothing_with_the_model() -> None:
    model, images = narrow(), torch.randn(1, 3, 40, 48)
    model.metadata["classes"] = ["a", "b", "c"]
    fast = deploy(model)
    logits = fast.forward_logits(images)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    model.metadata["classes"][0] = "z"
    assert torch.equal(fast.forward_logits(images), logits)
    assert fast.metadata == {"classes": ["a", "b", "c"]}


def test_default_device_is_not_used() -> None:
    model, images = narrow(), torch.randn(1, 3, 40, 48)
    labels = model.predict(images)
    with torch.device("meta"):
        fast = deploy(model)
        assert torch.equal(fast.predict(images), labels)
        assert torch.equal(model.predict(images), labels)


@pytest.mark.parametrize(
    "options", [{}, dict(strips=(7,)), dict(num_classes=2, threshold=0.5), dict(in_channels=4)]
)
def test_expected_shapes(options: dict[str, Any]) -> None:
    fast = deploy(narrow(**options))
    found = {name: tuple(tensor.shape) for name, tensor in by_name(fast.config, fast.weights).items()}
    assert expected_shapes(fast.config) == found


def _header(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def _wide(tensors: Tensors) -> None:
    tensors["classifier.weight"] = torch.zeros(150, 32, 1, 1)


def _low(tensors: Tensors) -> None:
    tensors["classifier.weight"] = tensors["classifier.weight"].half()


def _short(tensors: Tensors) -> None:
    del tensors["ffn.2.0.fc1_bias"]


def _long(tensors: Tensors) -> None:
    tensors["more"] = torch.zeros(1)


def _nan(tensors: Tensors) -> None:
    tensors["stem.0.bias"][2] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _wide,
            r"classifier.weight as \(3, 32, 1, 1\) float32 for its configuration, got \(150, 32, 1, 1\) float32",
        ),
        (_low, r"classifier.weight as .*, got \(3, 32, 1, 1\) float16"),
        (_short, "every tensor of a deployed segnext_t, lacks ffn.2.0.fc1_bias"),
        (_long, "the tensors of a deployed segnext_t alone, got 'more'"),
        (_nan, "finite weights, got NaN or Inf in stem.0.bias"),
    ],
)
def test_files_whose_tensors_do_not_fit(
    change: Callable[[Tensors], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    deploy(narrow()).save(path)
    tensors, header = load_file(path), _header(path)
    change(tensors)
    save_file(tensors, path, header)
    with pytest.raises(ValueError, match=f"net.safetensors must have {message}"):
        DeployedSegNeXt.load(path)


@pytest.mark.parametrize("content", ["torch", "prose"])
def test_a_file_of_another_kind_is_not_called_damaged(content: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({}, path) if content == "torch" else path.write_text("weights are elsewhere")
    with pytest.raises(ValueError, match="must be a safetensors file, got one that begins with"):
        DeployedSegNeXt.load(path)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    for metadata in (
        {"classes": ["a"]},
        {"palette": torch.zeros(3, 3)},
        {"preprocessing": {"std": [0, 1, 1]}},
    ):
        model = narrow()
        model.metadata = metadata
        with pytest.raises(ValueError, match="^deploy: (classes|metadata|preprocessing)"):
            deploy(model).save(tmp_path / "net.safetensors")
    model = narrow()
    model.decoder.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="deploy: weights to save must be finite, got NaN or Inf in"):
        deploy(model).save(tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused_in_one_line(device: str, tmp_path: Path) -> None:
    deploy(narrow()).save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=f"device must be 'auto', 'cpu' or .*, got '{device}'"):
        DeployedSegNeXt.load(tmp_path / "net.safetensors", device=device)


def test_each_door_names_the_other(tmp_path: Path) -> None:
    deploy(narrow()).save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"got a deployed model; DeployedSegNeXt\.load reads it"):
        Predictor(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"config": "{"},
        {"config": "[" * 100_000},
        {"config": "[1]"},
        {"config": json.dumps({"architecture": "segnext_t"})},
        {"config": json.dumps({"colour": "red"})},
        {"config": json.dumps({**asdict(narrow().config), "decoder": "fpn"})},
        {"config": json.dumps({**asdict(narrow().config), "eval_steps": True})},
        {"config": json.dumps({**asdict(narrow().config), "architecture": "a\nb"})},
        {"metadata": "null"},
        {"dtype": "load"},
    ],
)
def test_damaged_headers(change: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    deploy(narrow()).save(path)
    save_file(load_file(path), path, {**_header(path), **change})
    with pytest.raises(ValueError, match="net.safetensors must have a readable header") as error:
        DeployedSegNeXt.load(path)
    assert "\n" not in str(error.value)


def _hook(model: SegNeXt) -> None:
    model.backbone.stages[1][0].norm2.register_forward_hook(lambda *_: None)


def _prune(model: SegNeXt) -> None:
    prune.l1_unstructured(model.backbone.stages[0][0].ffn.fc1, "weight", 0.5)


def _parametrise(model: SegNeXt) -> None:
    parametrizations.weight_norm(model.decoder.align.conv)


def _head(model: SegNeXt) -> None:
    model.decoder.classifier = torch.nn.Conv2d(32, 2, 1)


def _stride(model: SegNeXt) -> None:
    model.backbone.stem.conv2.stride = (1, 1)


def _eps(model: SegNeXt) -> None:
    model.backbone.norms[2].eps = 1e-2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_hook, r"backbone.stages.1.0.norm2 \(has forward hooks\)"),
        (_prune, r"backbone.stages.0.0.ffn.fc1 \(has forward hooks\)"),
        (_parametrise, r"decoder.align.conv \(.* instead of Pointwise\)"),
        (_head, r"decoder.classifier \(Conv2d instead of Classifier\)"),
        (_stride, r"backbone.stem.conv2 \(stride is \(1, 1\) instead of \(2, 2\)\)"),
        (_eps, r"backbone.norms.2 \(eps is 0.01 instead of 1e-05\)"),
    ],
)
def test_changed_layers_are_not_folded_away(change: Callable[[SegNeXt], None], what: str) -> None:
    model = narrow()
    change(model)
    with pytest.raises(
        ValueError, match=f"deploy: model must have the layers that it was built with, got {what}; "
    ):
        deploy(model)
    assert reason_against(model) is not None  # a Predictor runs the model itself
