"""`segnext predict --show` is tested from the command line to its pictures and its records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext import Predictor, segnext_t
from segnext.cli._show import KINDS, parse_shown
from segnext.drawing.maps import coloured
from segnext.weights import save

SHOWN = ("confidence", "entropy", "margin", "features3")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_words():
    assert parse_shown([]) == ()
    assert parse_shown(["features"]) == ("features3",)
    assert parse_shown(["margin, confidence", "features:4", "margin"]) == (
        "confidence",
        "margin",
        "features4",
    )


@pytest.mark.parametrize(
    "word", ["", "certainty", "features:0", "features:5", "features3:", "features:", "margin:1", "features1"]
)
def test_other_words_are_refused(run, photos, tmp_path, word):
    if word == "features1":  # the name of a file's ending is no word, but means the same
        assert parse_shown([word]) == ("features1",)
        return
    status, _, errors = run(photos, f"--show={word}")
    assert status == 1 and errors.startswith("segnext: predict: --show must be some of confidence, entropy, ")
    assert f"got '{word}'" in errors and not (tmp_path / "out").exists()


def test_each_photograph_gets_its_pictures(run, photos, weights, tmp_path):
    status, output, errors = run(photos, "--show", "confidence,entropy,margin", "--show", "features")
    assert (status, errors) == (0, "")
    out = tmp_path / "out"
    expected = {f"{index}_{kind}.png" for index in range(3) for kind in ("mask", *SHOWN)}
    assert names(out) == expected | {f"{index}_overlay.jpg" for index in range(3)} | {"predictions.json"}
    for record in json.loads((out / "predictions.json").read_text())["images"]:
        assert [record[kind] for kind in SHOWN] == [
            f"{Path(record['image']).stem}_{kind}.png" for kind in SHOWN
        ]
    maps = Predictor(weights).inspect(photos / "0.png")
    for kind, values in maps.items():
        picture = np.array(Image.open(out / f"0_{kind}.png"))
        left = (picture.shape[1] - 60) // 2
        np.testing.assert_array_equal(picture[:40, left : left + 60], coloured(values), err_msg=kind)


def test_the_mask_is_the_one_without_it(run, photos, tmp_path):
    assert run(photos / "0.png", "--show", "margin,features:1")[0] == 0
    shown = (tmp_path / "out" / "0_mask.png").read_bytes()
    status, output, _ = run(photos / "0.png", "--overwrite")
    assert status == 0 and (tmp_path / "out" / "0_mask.png").read_bytes() == shown
    assert "margin" not in output


def test_the_files_are_listed(run, photos, tmp_path):
    _, output, _ = run(photos / "0.png", "--show", "features:2,confidence")
    lines = [line.split() for line in output.splitlines()[-4:]]
    endings = ("mask.png", "overlay.jpg", "confidence.png", "features2.png")
    assert lines == [[name.split(".")[0], str(tmp_path / "out" / f"0_{name}")] for name in endings]


def test_two_runs_give_the_same_files(run, photos, tmp_path):
    contents = []
    for _ in range(2):
        assert run(photos / "2.png", "--show", ",".join(KINDS), "--overwrite")[0] == 0
        contents.append([(tmp_path / "out" / f"2_{kind}.png").read_bytes() for kind in KINDS])
    assert contents[0] == contents[1]


def test_existing_pictures_are_not_replaced(run, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0_entropy.png").write_text("mine")
    status, _, errors = run(photos, "--show", "entropy")
    assert status == 1 and "got 0_entropy.png; use --overwrite" in errors
    assert (tmp_path / "out" / "0_entropy.png").read_text() == "mine"


def test_resume_adds_what_is_missing(run, photos, tmp_path):
    assert run(photos)[0] == 0
    assert run(photos, "--show", "margin", "--resume")[0] == 0
    assert {f"{index}_margin.png" for index in range(3)} <= names(tmp_path / "out")
    (tmp_path / "out" / "1_margin.png").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*_margin.png")}
    assert run(photos, "--show", "margin", "--resume")[0] == 0
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*_margin.png")}
    assert set(after) - set(times) == {"1_margin.png"} and all(after[name] == times[name] for name in times)


def test_pictures_are_no_photographs(segnext, photos, weights):
    """The results of a call lie among the photographs; the next call leaves all of them out."""
    arguments = ("predict", photos, "--show", ",".join(KINDS), "-w", weights, "-o", photos)
    assert segnext(*arguments)[0] == 0
    before = names(photos)
    assert {f"0_{kind}.png" for kind in KINDS} < before
    status, output, errors = segnext(*arguments, "--overwrite")
    assert status == 0 and "3 images" in output and errors == "" and names(photos) == before


def test_a_picture_that_cannot_be_written(run, photos, tmp_path):
    (tmp_path / "out" / "1_margin.png").mkdir(parents=True)
    status, _, errors = run(photos, "--show", "margin", "--overwrite")
    assert (
        status == 1 and "1_margin.png" in errors and "its mask is written, what --show names is not" in errors
    )
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert ["margin" in record for record in records] == [True, False, True]


def test_windows_have_maps_but_no_features(run, photos, tmp_path):
    assert run(photos / "0.png", "--mode", "slide", "--crop", "32", "--show", "entropy")[0] == 0
    status, _, errors = run(photos, "--mode", "slide", "--crop", "32", "--show", "features", "--overwrite")
    assert status == 1 and errors.startswith(
        "segnext: predict: --show features must come with --mode whole, got slide"
    )


def test_a_model_of_one_logit(segnext, photos, tmp_path):
    save(segnext_t(num_classes=2, threshold=0.5), tmp_path / "one.safetensors", {})
    out = tmp_path / "out"
    status, _, errors = segnext(
        *("predict", photos, "-w", tmp_path / "one.safetensors", "-o", out, "--show", "confidence,features:4")
    )
    assert (status, errors) == (0, "") and {"0_confidence.png", "0_features4.png"} <= names(out)


def test_an_exported_file_has_maps_but_no_features(segnext, photos, weights, tmp_path):
    file, out = tmp_path / "tiny.torchscript", tmp_path / "out"
    assert segnext("export", "torchscript", weights, "--size", "40x60", "-o", file)[0] == 0
    arguments = ("predict", photos / "0.png", "-w", file, "-o", out)
    status, _, errors = segnext(*arguments, "--show", "features")
    assert status == 1 and errors == (
        f"segnext: predict: --show features must come with weights for PyTorch, got {file}; use those that it was "
        "exported from\n"
    )
    status, _, errors = segnext(*arguments, "--show", "confidence")
    assert (status, errors) == (0, "") and "0_confidence.png" in names(out)
    assert (
        segnext("export", "torchscript", weights, "--size", "40x60", "-o", file, "--mask", "--overwrite")[0]
        == 0
    )
    status, _, errors = segnext(*arguments, "--show", "confidence", "--overwrite")
    assert status == 1 and f"a model that gives logits, got {file}, which gives masks" in errors


@pytest.mark.parametrize("source", [("clip.mp4",), ("--camera", "0")], ids=["film", "camera"])
def test_films_show_nothing(run, photos, tmp_path, source):
    status, _, errors = run(*source, "--show", "margin")
    assert status == 1 and errors == (
        f"segnext: predict: --show must come with photographs alone, got {' '.join(source)}; leave it out\n"
    )
    assert not (tmp_path / "out").exists()
