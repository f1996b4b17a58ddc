"""`segnext train` and `segnext val` are tested as they are typed."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnext import create_model
from segnext.cli.main import main
from tests.data.synthetic import CLASSES, scene, write_data_set, write_pair, write_yaml
from tests.full_disk import MESSAGE, full_disk
from tests.training.runs import header, rows, tensors

SHORT = ["--steps", "2", "--warmup", "0", "--batch-size", "2", "--crop", "32", "--log-every", "1"]
SHORT += ["--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("houses"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, Path]:
    """Return the folder of a two-step run of T, and its weights."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with pytest.raises(SystemExit) as exit_:
        main(["train", str(data), "-o", str(folder), *SHORT])
    assert exit_.value.code == 0
    return folder, folder / "final.safetensors"


def failure(result: tuple[int, str, str]) -> str:
    status, _, errors = result
    assert status == 1 and errors.startswith("segnext: ") and errors.count("\n") == 1, errors
    return errors


def test_a_run_leaves_its_files(trained):
    folder, weights = trained
    expected = {"checkpoint.safetensors", "final.safetensors", "results.csv", "results.jsonl", "samples.png"}
    assert expected <= {path.name for path in folder.iterdir()}
    model = create_model(weights=weights)
    assert model.config.architecture == "segnext_t" and model.metadata["classes"] == CLASSES
    recipe = model.metadata["recipe"]
    assert (recipe["steps"], recipe["crop"], recipe["lr"], recipe["architecture"]) == (
        2,
        32,
        1e-3,
        "segnext_t",
    )
    assert [row[0] for row in rows(folder)] == ["1", "2", "2"]


def test_train_prints_the_table_and_where_the_weights_are(segnext, data, tmp_path):
    status, printed, _ = segnext("train", data, "-o", tmp_path / "run", *SHORT, "--steps", 1, "--seed", 5)
    assert status == 0
    assert all(name in printed for name in CLASSES) and "mIoU 0." in printed
    assert "step 1/1  loss" in printed and "final.safetensors" in printed.replace("\n", "")


def test_train_ends_early_and_writes_events(segnext, data, tmp_path):
    pytest.importorskip("tensorboard")
    words = ["--steps", 9, "--lr", 1e-12, "--ema", 0, "--eval-every", 1, "--patience", 1, "--tensorboard"]
    status, printed, _ = segnext("train", data, "-o", tmp_path / "run", *SHORT, *words)
    assert status == 0 and " of 9: no better mIoU than " in printed
    assert int(header(tmp_path / "run" / "checkpoint.safetensors")["step"]) < 9
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def test_an_occupied_folder(segnext, data, trained):
    folder, _ = trained
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    message = failure(segnext("train", data, "-o", folder, *SHORT))
    assert "must not hold a run" in message and "--resume" in message and "--overwrite" in message
    message = failure(segnext("train", data, "-o", folder, *SHORT, "--resume", "--lr", "0.5"))
    assert "lr 0.001 -> 0.5" in message
    failure(segnext("train", data, "-o", folder, *SHORT, "--resume", "--overwrite"))
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    status, printed, _ = segnext("train", data, "-o", folder, *SHORT, "--resume")
    assert status == 0 and "resuming at step 2 of 2" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "x"], "name must be a known architecture"),
        (["--model", "mscan_t"], "model must be one of t, s, b, l, got mscan_t, which does not segment"),
        (["--warmup", "2"], "warmup must be 0 or more and less than steps (2), got 2"),
        (["--workers", "-1"], "workers must be at least 0, got -1"),
        (["--scale", "2", "1"], "scale must be 0 < LOW <= HIGH, got 2.0 1.0"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--root", "/nowhere"], "images must be a folder, got /nowhere/images/train"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_of_train_are_one_line(segnext, data, tmp_path, words, message):
    assert message in failure(segnext("train", data, "-o", tmp_path / "run", *SHORT, *words))
    assert not (tmp_path / "run").exists()


def test_new_classes_for_old_weights(segnext, data, trained, tmp_path):
    _, weights = trained
    four = write_yaml(data.with_name("four.yaml"), classes=[*CLASSES, "tree"], palette=None)
    command = ("train", four, "-o", tmp_path / "run", *SHORT, "--steps", 1, "--weights", weights)
    message = failure(segnext(*command))
    assert "num_classes must be 3" in message and "--head reinit" in message
    status, _, _ = segnext(*command, "--head", "reinit", "--lr", "1e-9", "--ema", "0")
    assert status == 0
    old, new = (
        create_model(weights=path).state_dict() for path in (weights, tmp_path / "run" / "final.safetensors")
    )
    assert new["decoder.classifier.weight"].shape[0] == 4
    for name in (
        "backbone.stem.conv1.weight",
        "decoder.squeeze.conv.weight",
    ):  # with lr 1e-9 they are as they were loaded
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=1e-7)


def test_the_factorisation_can_be_differentiated_in_one_step(segnext, data, trained, tmp_path):
    status, _, _ = segnext("train", data, "-o", tmp_path / "run", *SHORT, "--one-step-grad")
    assert status == 0
    assert header(tmp_path / "run" / "checkpoint.safetensors")["settings"]["model.nmf_grad"] == "one_step"
    assert rows(tmp_path / "run")[0][1] == rows(trained[0])[0][1]  # the loss before the first update
    assert rows(tmp_path / "run")[1][1] != rows(trained[0])[1][1]


@pytest.mark.proof
def test_a_compiled_network_trains_and_resumes(segnext, data, trained, tmp_path):
    command = ("train", data, "-o", tmp_path / "run", *SHORT, "--compile")
    assert segnext(*command)[0] == 0
    compiled, plain = (
        [float(row[1]) for row in rows(folder) if row[1]] for folder in (tmp_path / "run", trained[0])
    )
    assert compiled[0] > 0 and compiled[0] == pytest.approx(
        plain[0], rel=0.2
    )  # it draws other random numbers
    assert segnext(*command, "--resume")[0] == 0


def test_only_the_backbone_of_old_weights(segnext, data, trained, tmp_path):
    _, weights = trained
    options = (
        "--steps",
        1,
        "--weights",
        weights,
        "--part",
        "backbone",
        "--lr",
        "1e-9",
        "--ema",
        "0",
        "--seed",
        9,
    )
    status, _, _ = segnext("train", data, "-o", tmp_path / "run", *SHORT, *options)
    assert status == 0
    old, new = (
        create_model(weights=path).state_dict() for path in (weights, tmp_path / "run" / "final.safetensors")
    )
    torch.testing.assert_close(
        new["backbone.stem.conv1.weight"], old["backbone.stem.conv1.weight"], rtol=0, atol=1e-7
    )
    assert not torch.allclose(
        new["decoder.squeeze.conv.weight"], old["decoder.squeeze.conv.weight"], atol=1e-3
    )


def test_sigterm_writes_a_checkpoint(data, tmp_path):
    root = Path(__file__).parents[2]
    options = [*SHORT, "--steps", "40", "--workers", "1", "--threads", str(torch.get_num_threads())]
    command = ["train", str(data), "-o", str(tmp_path), *options]
    process = subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-c",
            "import sys; from segnext.cli.main import main; main(sys.argv[1:])",
            *command,
        ],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 2/40"):
            process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    assert any("go on with --resume" in line for line in lines)
    stopped = int(header(tmp_path / "checkpoint.safetensors")["step"])
    assert 2 <= stopped < 40 and [int(row[0]) for row in rows(tmp_path)] == list(range(1, stopped + 1))
    assert "model.decoder.classifier.weight" in tensors(tmp_path / "checkpoint.safetensors")
    assert not (tmp_path / "final.safetensors").exists()


def val(segnext, *words: object) -> str:
    status, printed, errors = segnext("val", *words, "--device", "cpu")
    assert status == 0, errors
    return printed


def test_val_prints_what_training_measured(segnext, data, trained):
    folder, weights = trained
    printed = val(segnext, data, "--weights", weights)
    measured = float(rows(folder)[-1][3])
    # Trained in channels_last, loaded as contiguous: a pixel between two classes may change sides.
    assert float(printed.split("mIoU ")[-1]) == pytest.approx(measured, abs=5e-4)
    assert all(name in printed for name in (*CLASSES, "2 images", "all pixels"))


@pytest.mark.parametrize(
    "words",
    [
        "--mode slide --crop 32 --stride 16",
        "--scales 0.5,1,1.5 --flip",
        "--protocol official",
        "--protocol mmseg1 --short-side 48",
        "--short-side 64 --split train",
        "--dtype bfloat16 --threads 1",
    ],
)
def test_val_protocols_and_json(segnext, data, trained, tmp_path, words, threads):
    output = tmp_path / "deep" / "val.json"
    printed = val(segnext, data, "-w", trained[1], *words.split(), "-o", output)
    assert f"measures: {output}" in printed.replace("\n", "")
    result = json.loads(output.read_text())
    counts = torch.tensor(result["confusion"])
    images = 5 if "train" in words else 2
    assert result["images"] == images and int(counts.sum()) == images * 39 * 48
    hits = counts.diagonal()
    iou = hits / (counts.sum(0) + counts.sum(1) - hits)
    assert result["miou"] == pytest.approx(float(iou.nanmean()), abs=1e-5)
    assert list(result["class_iou"]) == CLASSES and result["data"] == "houses"
    assert result["inference"]["flip"] == ("--flip" in words)
    assert result["inference"]["scales"] == ([0.5, 1.0, 1.5] if "--scales" in words else [1.0])
    protocol = words.split()[1] if "--protocol" in words else "native"
    assert result["inference"]["protocol"] == protocol and f"protocol {protocol}" in printed


def test_val_pictures_and_boundaries(segnext, data, trained, tmp_path):
    pytest.importorskip("matplotlib")
    confusion, worst = tmp_path / "pictures" / "confusion.png", tmp_path / "worst"
    places = ("--confusion", confusion, "--worst-dir", worst, "--worst-count", "1")
    printed = val(segnext, data, "-w", trained[1], *places, "--boundary", "-o", tmp_path / "val.json")
    assert f"confusion matrix: {confusion}" in printed.replace("\n", "")
    assert all(words in printed for words in ("boundary", "Dice %", "weighted mean"))
    with Image.open(confusion) as picture:
        assert picture.format == "PNG"
    with (worst / "worst.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {path.name for path in worst.iterdir()} == {"worst.csv", row["picture"]}
    measures = json.loads((tmp_path / "val.json").read_text())
    assert 0 <= float(row["miou"]) < 1 and 0 < measures["mean_boundary_iou"] < 1
    for option, place in (("confusion", confusion), ("worst-dir", worst / "worst.csv")):
        message = failure(
            segnext("val", data, "-w", trained[1], f"--{option}", places[places.index(f"--{option}") + 1])
        )
        assert f"val: {option} must not exist, got {place}; replace it with --overwrite" in message
    val(segnext, data, "-w", trained[1], *places, "--overwrite")


def test_val_without_matplotlib_says_so_first(segnext, data, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, printed, errors = segnext("val", data, "-w", trained[1], "--confusion", tmp_path / "c.png")
    assert (status, printed) == (1, "") and errors.count("\n") == 1
    assert "confusion: matplotlib must be installed" in errors and "pip install matplotlib" in errors


def test_val_overwrites_only_when_asked(segnext, data, trained, tmp_path):
    output = tmp_path / "val.json"
    output.write_text("precious")
    message = failure(segnext("val", data, "-w", trained[1], "-o", output))
    assert "output must not exist" in message and "--overwrite" in message
    assert output.read_text() == "precious"
    val(segnext, data, "-w", trained[1], "-o", output, "--overwrite")
    assert json.loads(output.read_text())["images"] == 2


def test_val_does_not_write_through_a_link(segnext, data, trained, tmp_path):
    (tmp_path / "val.json").symlink_to(tmp_path / "nowhere")
    command = ("val", data, "-w", trained[1], "-o", tmp_path / "val.json")
    assert "output must not exist" in failure(segnext(*command))
    assert segnext(*command, "--overwrite")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["val.json"]
    assert json.loads((tmp_path / "val.json").read_text())["images"] == 2


def test_val_prints_measures_that_it_cannot_write(segnext, data, trained, tmp_path):
    output = tmp_path / "val.json"
    with full_disk(limit=100):
        status, printed, errors = segnext("val", data, "-w", trained[1], "-o", output)
    assert status == 1 and "mIoU" in printed
    assert errors.splitlines() == [f"segnext: {output}: {MESSAGE}"]


def test_val_knows_first_where_it_cannot_write(segnext, data, trained, tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for output, message in (
        (tmp_path / "file" / "val.json", f"{tmp_path / 'file' / 'val.json'}: Not a directory"),
        (tmp_path, f"val: output must be a file, got the folder {tmp_path}; name a file in it"),
        (tmp_path / "pipe", f"save: {tmp_path / 'pipe'} must be a regular file, got a folder, a pipe or"),
    ):
        status, printed, errors = segnext("val", data, "-w", trained[1], "-o", output, "--overwrite")
        assert status == 1 and not printed and errors.count("\n") == 1 and message in errors


def test_val_tells_of_other_class_names(segnext, data, trained):
    renamed = write_yaml(data.with_name("renamed.yaml"), classes=["ground", "door", "roof"])
    assert "note: 2 classes have another name in the weights (door / roof, roof / door)" in val(
        segnext, renamed, "-w", trained[1]
    )
    assert "note:" not in val(segnext, data, "-w", trained[1])


def test_train_tells_of_other_class_names(segnext, data, trained, tmp_path):
    renamed = write_yaml(data.with_name("renamed.yaml"), classes=["ground", "door", "roof"])
    words = ("-w", trained[1], *SHORT, "--steps", 1)
    status, printed, _ = segnext("train", renamed, "-o", tmp_path / "kept", *words)
    assert status == 0
    assert (
        "note: 2 classes have another name in the weights (door / roof, roof / door); ids are kept" in printed
    )
    status, printed, _ = segnext("train", renamed, "-o", tmp_path / "new", *words, "--head", "reinit")
    assert status == 0 and "another name" not in printed


def test_val_takes_the_short_side_of_the_data_where_the_weights_have_none(segnext, data, trained, tmp_path):
    small = write_yaml(data.with_name("small.yaml"), short_side=32)
    assert "short side 32\n" in val(segnext, small, "-w", trained[1])
    assert "short side native\n" in val(segnext, small, "-w", trained[1], "--short-side", "0")
    assert segnext("train", small, "-o", tmp_path / "run", *SHORT, "--steps", 1)[0] == 0
    larger = write_yaml(data.with_name("larger.yaml"), short_side=36)
    assert "short side 32\n" in val(segnext, larger, "-w", tmp_path / "run" / "final.safetensors")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scales", "1,big"], "--scales must be numbers separated by commas"),
        (["--scales", "0"], "scales must be numbers above 0"),
        (["--scales", "1e308"], "scales must be numbers above 0 and up to 100"),
        (["--mode", "slide", "--stride", "2000"], "stride must be from 1 to the crop, 1024, got 2000"),
        (["--short-side", "-1"], "short_side must be 1 to 8192 pixels"),
        (["--split", "test"], "split must be one of train, val for houses, got test"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_of_val_are_one_line(segnext, data, trained, words, message):
    assert message in failure(segnext("val", data, "-w", trained[1], *words))


def test_val_checks_the_labels_first(segnext, trained, tmp_path):
    yaml = write_data_set(tmp_path)
    ids = np.zeros((40, 48), np.uint8)
    for index in range(2):
        write_pair(tmp_path, "val", f"scene{index:02d}", scene(index)[0], ids)
    ids[:20] = 255
    write_pair(tmp_path, "val", "scene01", scene(1)[0], ids)
    status, printed, _ = segnext("val", yaml, "-w", trained[1], "--device", "cpu")
    assert (
        status == 0 and "warning: " in printed and "ids {0, 255} look binary, but 255 is ignored" in printed
    )
    ids[:] = 9
    write_pair(tmp_path, "val", "scene01", scene(1)[0], ids)
    message = failure(segnext("val", yaml, "-w", trained[1], "--device", "cpu"))
    assert "scene01.png: ids must be 0..2, or 255 to be ignored, got 9 in 50 % of all pixels" in message


def test_val_needs_weights_of_the_data_s_classes(segnext, data, trained, tmp_path):
    two = write_yaml(data.with_name("two.yaml"), classes=CLASSES[:2], palette=None)
    message = failure(segnext("val", two, "-w", trained[1]))
    assert "weights must be a SegNeXt of 2 classes for houses, got" in message
    assert "segnext_t of 3; segnext train --head reinit" in message
    assert "nothing.pth" in failure(segnext("val", data, "-w", tmp_path / "nothing.pth"))
