"""`segnext compare` is tested from the command line to its pictures, its table and its JSON."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnext import Predictor, segnext_t
from segnext.drawing.pair import draw_pair
from segnext.weights import save


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write(path: Path, classes: list[str] | None, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model = segnext_t(num_classes=3)
    with torch.no_grad():  # masks of several classes
        model.decoder.classifier.weight.mul_(30)
    save(model, path, {} if classes is None else {"classes": classes})
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("other") / "other.safetensors", ["tree", "road", "car"])


def test_two_models(segnext, weights, other, photos, tmp_path):
    out = tmp_path / "out"
    status, output, errors = segnext("compare", weights, other, photos, "-o", out)
    assert status == 0 and errors == "segnext: note: classes of one model alone: sky, car\n"
    assert names(out) == {"0_compare.jpg", "1_compare.jpg", "2_compare.jpg", "comparison.json"}
    assert Image.open(out / "0_compare.jpg").width > 600
    summary = json.loads((out / "comparison.json").read_text())
    assert [row["name"] for row in summary["classes"]] == ["road", "sky", "tree", "car"]
    first, second = Predictor(weights), Predictor(other)
    equal = pixels = 0
    for index, record in enumerate(summary["images"]):
        file = photos / f"{index}.png"
        a = np.array(first.classes)[first(file).mask]
        b = np.array(second.classes)[second(file).mask]
        equal, pixels = equal + (a == b).sum(), pixels + a.size
        assert record["image"] == str(file) and record["picture"] == f"{index}_compare.jpg"
        assert record["agreement"] == pytest.approx((a == b).mean())
        assert record["a_surer"] + record["b_surer"] == pytest.approx((a != b).mean())
        sure = [one.inspect(file, ["confidence"])["confidence"].mean() for one in (first, second)]
        assert record["confidence"] == pytest.approx(sure, abs=1e-5)
        assert (record["height"], record["width"]) == a.shape and min(record["seconds"]) > 0
    assert summary["agreement"] == pytest.approx(equal / pixels) and summary["pixels"] == pixels
    assert summary["a"]["weights"] == str(weights) and summary["failures"] == []
    assert "3 photographs" in output and f"{pixels - equal:,} of {pixels:,} differ" in output
    assert "least alike: " in output


def test_a_model_agrees_with_itself(segnext, weights, photos, tmp_path):
    out = tmp_path / "out"
    arguments = ("compare", weights, weights, photos / "0.png", "-o", out, "--no-pictures")
    status, output, errors = segnext(*arguments, "--expect", "1")
    assert (status, errors) == (0, "") and names(out) == {"comparison.json"}
    assert "same class 100.000 % of the pixels, mIoU 1.0000; 0 of 2,400 differ" in output


def test_a_model_and_its_exported_file(segnext, weights, photos, tmp_path):
    out = tmp_path / "out"
    for options, file in (((), "logits.torchscript"), (("--mask",), "mask.torchscript")):
        exported = tmp_path / file
        export = ("export", "torchscript", weights, "--size", "40x60", "-o", exported)
        assert segnext(*export, *options)[0] == 0
        status, output, errors = segnext(
            *("compare", weights, exported, photos / "0.png", "-o", out, "--expect", "0.999", "--overwrite")
        )
        assert (status, errors) == (0, "")
        assert ("a is sure %" in output) == (not options)  # masks alone say nothing about certainty
        record = json.loads((out / "comparison.json").read_text())["images"][0]
        assert ("confidence" in record) == (not options)


def test_too_few_equal_pixels(segnext, weights, other, photos, tmp_path):
    status, _, errors = segnext(
        "compare", weights, other, photos, "-o", tmp_path / "out", "--expect", "0.999"
    )
    assert status == 1
    assert errors.splitlines()[-1].startswith(
        "segnext: compare: at least 99.9 % of the pixels must have the same "
    )
    assert "comparison.json" in names(tmp_path / "out")  # which says where they differ


def test_unreadable_photographs_are_listed(segnext, weights, other, photos, tmp_path):
    (photos / "0.png").write_bytes(b"no image")
    status, output, errors = segnext(
        "compare", weights, other, photos, photos / "missing.jpg", tmp_path / "*.gif", "-o", tmp_path / "out"
    )
    lines = errors.splitlines()
    assert status == 1 and "2 photographs" in output and len(lines) == 4
    for name in ("0.png", "missing.jpg", "*.gif"):
        assert sum(name in line for line in lines) == 1
    summary = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(summary["failures"]) == 3 and len(summary["images"]) == 2


def test_nothing_to_compare(segnext, weights, other, tmp_path):
    status, output, errors = segnext("compare", weights, other, tmp_path / "*.gif", "-o", tmp_path / "out")
    assert status == 1 and output == "" and "no image matches the pattern" in errors


def test_results_are_replaced_only_if_asked(segnext, weights, other, photos, tmp_path):
    arguments = ("compare", weights, other, photos / "0.png", "-o", tmp_path / "out")
    assert segnext(*arguments)[0] == 0
    status, _, errors = segnext(*arguments)
    assert status == 1 and "compare: 2 results must not exist yet in" in errors
    assert segnext(*arguments, "--overwrite")[0] == 0


def test_the_output_is_a_folder(segnext, weights, photos, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, _, errors = segnext("compare", weights, weights, photos, "-o", tmp_path / "file")
    assert status == 1 and "compare: --output must be a folder" in errors


def test_models_without_a_class_in_common(segnext, weights, photos, tmp_path):
    stranger = write(tmp_path / "stranger.safetensors", ["wall", "floor", "bed"])
    status, _, errors = segnext("compare", weights, stranger, photos, "-o", tmp_path / "out")
    assert status == 1 and errors.count("\n") == 1
    assert "the models must have classes in common, got road, sky, tree and wall, floor, bed" in errors
    assert not (tmp_path / "out").exists()


def test_a_model_without_names(segnext, weights, photos, tmp_path):
    plain = write(tmp_path / "plain.safetensors", None)
    assert segnext("compare", plain, weights, photos / "0.png", "-o", tmp_path / "out")[0] == 0
    summary = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["name"] for row in summary["classes"]] == ["road", "sky", "tree"]


def test_an_absent_number_is_null(segnext, weights, photos, tmp_path):
    assert segnext("compare", weights, weights, photos / "0.png", "-o", tmp_path / "out")[0] == 0
    text = (tmp_path / "out" / "comparison.json").read_text()
    assert "NaN" not in text and json.loads(text)


def test_a_signal_ends_it_after_the_photograph(segnext, weights, other, photos, tmp_path, monkeypatch):
    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return draw_pair(*arguments)

    monkeypatch.setattr("segnext.cli._compared.draw_pair", signalled)
    status, output, errors = segnext("compare", weights, other, photos, "-o", tmp_path / "out")
    assert status == 130 and "1 photograph" in output
    assert errors.endswith("segnext: stopped; 1 of 3 compared, comparison.json is not written\n")
    assert names(tmp_path / "out") == {"0_compare.jpg"}
