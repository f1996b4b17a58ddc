"""`segnext val imagenet` and `segnext train imagenet` are tested as they are typed."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from segnext import create_model
from segnext.data.classification import open_class_folders
from segnext.evaluation.classification import evaluate_classifier
from segnext.models import MSCAN, SegNeXt
from segnext.models.dialects import to_official
from segnext.weights.saving import save
from tests.data.class_folders import write_class_folders
from tests.data.synthetic import write_data_set
from tests.evaluation.test_classification import narrow


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("imagenet"), 10, 4)


def test_val_prints_and_writes_what_the_function_counts(segnext, root, tmp_path):
    model = narrow()
    save(model, tmp_path / "narrow.safetensors", {"recipe": {"crop": 64}})
    measures = tmp_path / "val.json"
    words = ("-w", tmp_path / "narrow.safetensors", "--device", "cpu", "-o", measures)
    status, printed, errors = segnext("val", "imagenet", "--root", root, *words)
    assert status == 0, errors
    expected = evaluate_classifier(model, open_class_folders(root).open("val"), side=64)
    assert f"top-1 {100 * expected.top1:.3f} %  top-5 100.000 %  (12 images" in printed
    written = json.loads(measures.read_text())
    assert written["hits_top1"] == expected.hits[0] and written["side"] == 64
    assert segnext("val", "imagenet", "--root", root, *words)[0] == 1  # the file is there


def test_val_refuses_what_does_not_fit(segnext, root, tmp_path):
    save(narrow(4), tmp_path / "four.safetensors")
    four = ("val", "imagenet", "-w", tmp_path / "four.safetensors")
    assert "an encoder of 3 classes for imagenet" in segnext(*four, "--root", root)[2]
    assert "name it with --root" in segnext(*four)[2]
    assert (
        "got --scales, which is one of a segmentation" in segnext(*four, "--root", root, "--scales", "1")[2]
    )
    assert "an encoder with its classifier" in segnext("val", "imagenet", "--root", root, "-w", "camvid")[2]


def test_official_weights_are_evaluated(segnext, root, tmp_path):
    model = create_model("mscan_t", num_classes=3)
    assert isinstance(model, MSCAN)
    torch.save({"state_dict": to_official(model.state_dict())}, tmp_path / "mscan_t.pth")
    status, printed, errors = segnext("val", "imagenet", "--root", root, "-w", tmp_path / "mscan_t.pth")
    assert status == 0 and "top-1" in printed, errors


SHORT = ["--steps", "2", "--warmup", "1", "--batch-size", "4", "--crop", "32", "--device", "cpu"]


def test_train_gives_an_encoder_that_a_segmentation_starts_from(segnext, root, tmp_path):
    run = tmp_path / "run"
    status, printed, errors = segnext("train", "imagenet", "--root", root, "-o", run, *SHORT, "--mixup", 0.5)
    assert status == 0 and "top-1" in printed, errors
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (recipe["mixup"], recipe["cutmix"], recipe["ema"], recipe["steps"]) == (0.5, 1.0, 0.99996, 2)
    assert recipe["architecture"] == "mscan_t"  # of the size t
    houses = write_data_set(tmp_path / "houses")
    words = ("-w", run / "final.safetensors", "--part", "backbone", "--lr", "1e-9", *SHORT)
    status, _, errors = segnext("train", houses, "-o", tmp_path / "second", *words)
    assert status == 0, errors
    encoder = create_model(weights=run / "final.safetensors")
    model = create_model(weights=tmp_path / "second" / "final.safetensors")
    assert isinstance(model, SegNeXt) and isinstance(encoder, MSCAN)
    torch.testing.assert_close(model.backbone.stages[0][0].norm1.weight, encoder.stages[0][0].norm1.weight)


def test_other_processes_than_the_first_print_nothing(segnext, root, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    status, printed, errors = segnext("train", "imagenet", "--root", root, "-o", tmp_path / "run", *SHORT)
    assert (status, printed) == (0, ""), errors


def test_train_refuses_options_of_the_other_kind(segnext, root, tmp_path):
    imagenet = ("train", "imagenet", "--root", root, "-o", tmp_path / "run")
    assert "got --balance, which is one of a segmentation" in segnext(*imagenet, "--balance", 1)[2]
    assert (
        "recipe must be one of a classifier for imagenet, got small"
        in segnext(*imagenet, "--recipe", "small")[2]
    )
    for words in (["--one-step-grad"], ["--part", "backbone"]):
        assert "which are about a decoder; leave them out" in segnext(*imagenet, *words)[2]
    assert "which does not classify" in segnext(*imagenet, "--model", "segnext_t")[2]
    camvid = ("train", "camvid", "--root", root, "-o", tmp_path / "run")
    assert "got --mixup, which is one of a classifier" in segnext(*camvid, "--mixup", 1)[2]
    assert "recipe must be one of a segmentation" in segnext(*camvid, "--recipe", "imagenet")[2]
    assert not (tmp_path / "run").exists()
