"""`segnext val` and `segnext predict` in several processes leave what one process leaves."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.classification import open_class_folders
from segnext.weights.saving import save
from tests.data.class_folders import write_class_folders
from tests.data.synthetic import write_data_set
from tests.evaluation.test_classification import narrow
from tests.processes import ended, start

SEGNEXT = ("-m", "segnext")
CPU = ("--device", "cpu")


def contents(folder: Path, *left_out: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in left_out}


def test_two_processes_evaluate_as_one_does(weights, tmp_path):
    data = write_data_set(tmp_path, val=5)
    printed = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        words = ("-o", folder / "val.json", "--boundary", "--worst-dir", folder, "--worst-count", 3)
        processes = start(count, *SEGNEXT, "val", data, "-w", weights, *words, "--multi-scale", *CPU)
        first, *others = ended(processes)
        assert first[0] == 0, first[2]
        assert all(other == (0, "", "") for other in others)
        printed.append(first[1].replace(str(folder), "FOLDER"))
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert one == two and len(one) == 5  # measures, list and three pictures
    assert json.loads(one["val.json"])["images"] == 5
    assert printed[1].count("mIoU") == 1 and "5 images" in printed[1]


def test_classifiers_are_evaluated_together_and_one_failure_ends_all(tmp_path):
    root = write_class_folders(tmp_path / "imagenet", 3, 5)
    save(narrow(), tmp_path / "narrow.safetensors", {"recipe": {"crop": 64}})
    words = ("val", "imagenet", "--root", root, "-w", tmp_path / "narrow.safetensors", *CPU, "-o")
    for count in (1, 2):
        results = ended(start(count, *SEGNEXT, *words, tmp_path / f"{count}.json"))
        assert [status for status, _, _ in results] == [0] * count, results
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert one == two and one["images"] == 15
    open_class_folders(root).open("val").file(1).write_bytes(b"nothing")  # the second process's first image
    first, second = ended(start(2, *SEGNEXT, *words, tmp_path / "damaged.json"))
    assert (first[0], second[0]) == (1, 1) and "not an image in a format that is read" in second[2]
    assert first[2].startswith("segnext: val: all 2 processes must be at work") and not first[1]
    assert not (tmp_path / "damaged.json").exists()


@pytest.fixture
def many(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (300 + index, 320, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


def wait_for(processes, *journals: Path) -> None:
    """Wait until each of the files holds the record of an image."""
    while not all(file.exists() and '{"image": ' in file.read_text() for file in journals):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def summary(output: Path) -> dict:
    return json.loads((output / "predictions.json").read_text())


def test_two_processes_predict_each_image_once(weights, photos, tmp_path):
    (photos / "1b.png").write_bytes(b"nothing")
    for count in (1, 2):
        results = ended(
            start(count, *SEGNEXT, "predict", photos, "-w", weights, "-o", tmp_path / str(count), *CPU)
        )
        assert [status for status, _, _ in results] == [1] * count
        assert results[0][2].endswith("segnext: 3 of 4 done, 1 failed\n") and results[0][2].count("\n") == 2
        assert all(not printed and not errors for _, printed, errors in results[1:])
    one, two = (summary(tmp_path / count) for count in ("1", "2"))
    for record in one["images"] + two["images"]:
        assert record.pop("seconds") > 0
    assert one == two
    files = [contents(tmp_path / count, "predictions.json") for count in ("1", "2")]
    assert files[0] == files[1] and len(files[0]) == 6


def test_a_signal_to_one_stops_all_and_one_goes_on(run, many, weights, tmp_path):
    output = tmp_path / "out"
    processes = start(2, *SEGNEXT, "predict", many, "-w", weights, "-o", output, *CPU)
    wait_for(processes, output / "predictions.1.jsonl")
    processes[1].send_signal(signal.SIGTERM)
    first, second = ended(processes)
    assert (first[0], second[0]) == (130, 130)
    assert "0 failed; stopped, go on with --resume" in first[2] and "12 done" not in second[2]
    done = {path: path.stat().st_mtime_ns for path in output.glob("*_mask.png")}
    assert 0 < len(done) < 12
    status, _, errors = run(many, "--resume")
    assert (status, errors) == (0, "")
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    assert len(summary(output)["images"]) == 12 and not list(output.glob("*.jsonl"))


def test_three_processes_go_on_where_two_were_killed(many, weights, tmp_path):
    output = tmp_path / "out"
    words = (*SEGNEXT, "predict", many, "-w", weights, "-o", output, *CPU)
    processes = start(2, *words)
    wait_for(processes, output / "predictions.jsonl", output / "predictions.1.jsonl")
    for process in processes:
        process.kill()
    ended(processes)
    recorded = [
        json.loads(line)["mask"]
        for journal in output.glob("*.jsonl")
        for line in journal.read_text().splitlines()
        if line.startswith('{"image": ')
    ]
    done = {output / name: (output / name).stat().st_mtime_ns for name in recorded}
    assert 2 <= len(done) < 12
    results = ended(start(3, *words, "--resume"))
    assert [status for status, _, _ in results] == [0, 0, 0], results
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    names = [record["image"] for record in summary(output)["images"]]
    assert len(names) == len(set(names)) == 12 and not list(output.glob("*.jsonl"))


def test_a_folder_in_use_is_refused_in_all_processes(many, weights, tmp_path):
    words = (*SEGNEXT, "predict", many, "-w", weights, "-o", tmp_path / "out", *CPU)
    (alone,) = start(1, *words)
    try:
        wait_for([alone], tmp_path / "out" / "predictions.jsonl")
        alone.send_signal(signal.SIGSTOP)
        first, second = ended(start(2, *words, "--overwrite"))
    finally:
        alone.kill()
        alone.communicate()
    assert (first[0], second[0]) == (1, 1) and "where another process is at work" in first[2]
    assert second[2].startswith("segnext: predict: ")
