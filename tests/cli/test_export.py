"""`segnext export` from the command line to files that predict and val take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnext import create_model, open_exported
from segnext.evaluation import exported
from segnext.weights.saving import save
from tests.cli.commands import call, ended
from tests.export.conftest import small_model

STREET = Path(__file__).parents[2] / "docs" / "street.jpg"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"needs {name}: pip install .[onnx]")
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save(small_model(), path)
    return path


@pytest.fixture(scope="module")
def file(checkpoint: Path) -> Path:
    path = checkpoint.with_name("mine.onnx")
    call("export", "onnx", checkpoint, "-o", path, "--dynamic", "--verify", STREET)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two labelled photographs, and the YAML of their set."""
    generator = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder / "val").mkdir(parents=True)
    for number in range(2):
        pixels = generator.integers(0, 256, (64, 96, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "val" / f"{number}.png")
        label = generator.integers(0, 5, (64, 96), np.uint8)
        Image.fromarray(label).save(tmp_path / "labels" / "val" / f"{number}.png")
    content = {
        "path": str(tmp_path),
        "classes": [f"class {index} of 5" for index in range(5)],
        "val": {"images": "images/val", "labels": "labels/val"},
    }
    path = tmp_path / "mine.YAML"  # in capitals, as some systems write it
    path.write_text(json.dumps(content))
    return path


def test_predict_takes_the_file(file: Path, checkpoint: Path, tmp_path: Path) -> None:
    for weights, folder in ((checkpoint, "own"), (file, "file")):
        call("predict", STREET, "--weights", weights, "-o", tmp_path / folder, "--no-overlay")
    own, got = (np.array(Image.open(tmp_path / name / "street_mask.png")) for name in ("own", "file"))
    assert own.shape == got.shape and (own == got).mean() > 0.999
    run = json.loads((tmp_path / "file" / "predictions.json").read_text())
    assert run["architecture"] == "segnext_t" and run["weights_digest"] == open_exported(file).digest


def test_val_takes_the_file(file: Path, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    found = []
    for weights in (checkpoint, file):
        output = tmp_path / f"{weights.suffix[1:]}.json"
        call("val", data, "--weights", weights, "-o", output)
        found.append(json.loads(output.read_text()))
    assert found[1]["miou"] == pytest.approx(found[0]["miou"], abs=1e-3)
    assert found[1]["images"] == 2


def test_bench_times_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("bench", "--model", file, "--size", "64x96", "--batch", "2", "--seconds", "0")
    output = capsys.readouterr().out
    assert "2x64x96 to mask, float32" in " ".join(output.split()) and "ONNX Runtime" in output
    assert "its time" not in output  # there is nothing to compare with


def test_verify_compares_masks_and_miou(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    call("export", "onnx", checkpoint, "-o", path, "--size", "64x96", "--verify", data, "--verify", STREET)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        f"{path}: segnext_t, 5 classes, normalised float32 images of 1x64x96 to logits"
    )
    assert lines[1].startswith("ONNX Runtime") and lines[1].endswith("the same as PyTorch on random images")
    assert [line.split(" %")[0] for line in lines[2:]] == ["verified: 100.0000"] * 2
    assert "of 6,144 pixels of 1 image" in lines[2] and "of 12,288 pixels of 2 images" in lines[3]
    assert "; mIoU " in lines[3]


def test_file_that_fails_is_not_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(exported.LEAST_EQUAL, "float32", 1.01)  # which no file reaches
    path = tmp_path / "m.onnx"
    path.write_bytes(b"of yesterday")
    arguments = ("export", "onnx", checkpoint, "-o", path, "--size", "64", "--verify", STREET, "--overwrite")
    assert ended(*arguments) == 1
    assert "m.onnx: at least 101 % of the pixels must have the same class, got" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"of yesterday"


def test_a_size_that_verify_does_not_have_names_the_file(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    assert ended("export", "onnx", checkpoint, "-o", path, "--size", "64", "--verify", data) == 1
    assert (
        f"segnext: {path}: images must be 64x64, for which it was exported, got 64x96"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["onnx", "{weights}", "-o", "{existing}"],
            "output must be a new file, got .*; pass --overwrite to replace",
        ),
        (["onnx", "{weights}", "-o", "m.xml"], "the file must end in .onnx for onnx, got m.xml; rename it"),
        (["onnx", "{weights}", "--verify", "none.jpg"], "none.jpg"),
        (
            ["onnx", "{weights}", "--root", "data"],
            "--root must come with a data set in --verify or --calibrate",
        ),
        (
            ["onnx", "{encoder}"],
            "weights must be of a SegNeXt, got mscan_t from .*; a classifier has no masks",
        ),
        (["onnx", "none.pth"], "weights: source must be"),
        (["pt2", "{weights}", "--dtype", "float16"], "dtype must be float32 for pt2, got 'float16'"),
        (
            ["openvino", "{weights}", "--dtype", "int8"],
            "calibrate must be photographs like those of use for int8",
        ),
        (
            ["onnx", "{weights}", "--dynamic", "--size", "720x960"],
            "--size must be left out with --dynamic, got 720x960; a file takes one size, or any; leave out",
        ),
        (
            ["onnx", "{weights}", "--batch", "2", "--dynamic"],
            "--batch must be left out with --dynamic, got 2",
        ),
        (["onnx", "{weights}", "--size", "0"], "--size must be from 1 to"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    existing, encoder = tmp_path / "there.onnx", tmp_path / "encoder.safetensors"
    existing.touch()
    torch.manual_seed(0)
    save(create_model("mscan_t", channels=(16, 16, 16, 16), depths=(1, 1, 1, 1), num_classes=2), encoder)
    names = {"weights": checkpoint, "existing": existing, "encoder": encoder}
    assert ended("export", *(word.format(**names) for word in words)) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("segnext: ") and errors.count("\n") == 1 and re.search(message, errors), errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.safetensors", "there.onnx"]
