"""Trainings and predictions that are killed at random moments: no file is half, and going on gives the same result."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.atomic import whole_lines
from segnext.cli.main import main
from segnext.weights import save
from tests.data.synthetic import write_data_set
from tests.fuzz.conftest import Fuzzer
from tests.fuzz.kills import Moment, start
from tests.training.runs import assert_equal_runs, narrow, tensors

KILLS = 15  # of each command in a full run

TRAIN = (
    "--steps 6 --warmup 2 --batch-size 2 --crop 32 --seed 3 --log-every 1 --checkpoint-every 2 --eval-every 0"
)
THREADS = ["--device", "cpu", "--threads", 1]


def _run(*words: object) -> None:
    """Run a command line to its end in this process."""
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    assert exit_.value.code == 0, f"exit status {exit_.value.code}"


def _no_half_file(folder: Path) -> str | None:
    """Return which file is neither whole nor a temporary one."""
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        if path.name.startswith("."):
            continue
        try:
            if path.suffix == ".safetensors":
                tensors(path)
            elif path.suffix in (".png", ".jpg"):
                with Image.open(path) as image:
                    image.load()
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in whole_lines(path)]
        except Exception as error:
            return f"{path.name} is half: {error}"
    return None


def _survives(moment: Moment, words: list[object], folder: Path, errors: Path) -> str | None:
    """Kill one process; return what is wrong with what it left."""
    status = start(moment, words, errors)
    said = errors.read_text()
    if "Traceback" in said or (moment.signal == signal.SIGKILL and status not in (0, -signal.SIGKILL)):
        return f"{moment}: status {status}, {said[-600:]}"
    half = _no_half_file(folder)
    return f"{moment}: {half}" if half else None


@pytest.fixture
def segnext_narrow(monkeypatch):
    """Let `segnext train` in this process train the model of the processes that are killed."""
    import segnext.cli.train

    monkeypatch.setattr(segnext.cli.train, "_network", lambda *_: narrow())


def test_trainings_that_are_killed(fuzzer: Fuzzer, segnext_narrow, tmp_path):
    data = write_data_set(tmp_path / "houses")
    train = ["train", data, *TRAIN.split(), *THREADS]
    _run(*train, "-o", tmp_path / "whole")

    def case(rng: np.random.Generator, folder: Path) -> str | None:
        overwrite = bool(rng.random() < 0.3)
        if overwrite:  # an earlier run lies there, which was stopped before its end
            shutil.copytree(tmp_path / "whole", folder)
            (folder / "final.safetensors").unlink()
        for session in range(1 + int(rng.random() < 0.3)):
            moment = Moment.random(rng, writes=40, lines=8)
            how = "--overwrite" if overwrite and not session else "--resume"
            fault = _survives(moment, [*train, "-o", folder, how], folder, tmp_path / "errors")
            if fault is not None:
                return fault
        _run(*train, "-o", folder, "--resume")
        assert_equal_runs(tmp_path / "whole", folder)
        left = {path.name for path in folder.iterdir()} ^ {
            path.name for path in (tmp_path / "whole").iterdir()
        }
        return f"left over: {sorted(left)}" if left else None

    for index, rng in fuzzer.cases("kills of a training", KILLS):
        fuzzer.check(index, lambda rng=rng, index=index: case(rng, tmp_path / f"run{index}"))
        shutil.rmtree(tmp_path / f"run{index}", ignore_errors=True)


def _results(folder: Path) -> tuple[dict[str, bytes], dict[str, object]]:
    """Return the content of masks and overlays, and the summary without times."""
    summary = json.loads((folder / "predictions.json").read_text())
    for record in summary["images"]:
        record.pop("seconds")
    pictures = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".jpg")}
    return pictures, summary


def test_predictions_that_are_killed(fuzzer: Fuzzer, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (40 + index, 60, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.png")
    save(narrow(), tmp_path / "narrow.safetensors")
    predict = ["predict", photos, "-w", tmp_path / "narrow.safetensors", *THREADS]
    _run(*predict, "-o", tmp_path / "whole")

    def case(rng: np.random.Generator, folder: Path) -> str | None:
        for _ in range(1 + int(rng.random() < 0.3)):
            moment = Moment.random(rng, writes=50, lines=0)
            fault = _survives(moment, [*predict, "-o", folder, "--resume"], folder, tmp_path / "errors")
            if fault is not None:
                return fault
        journal = folder / "predictions.jsonl"
        done = [json.loads(line)["mask"] for line in whole_lines(journal)[1:]] if journal.exists() else []
        before = {name: (folder / name).stat().st_mtime_ns for name in done}
        _run(*predict, "-o", folder, "--resume")
        if {name: (folder / name).stat().st_mtime_ns for name in done} != before:
            return "an image with a record was segmented again"
        if _results(folder) != _results(tmp_path / "whole"):
            return "the results are others than those of an undisturbed run"
        left = set(os.listdir(folder)) ^ set(os.listdir(tmp_path / "whole"))
        return f"left over: {sorted(left)}" if left else None

    for index, rng in fuzzer.cases("kills of a prediction", KILLS):
        fuzzer.check(index, lambda rng=rng, index=index: case(rng, tmp_path / f"out{index}"))
