"""results.jsonl says what results.csv says, with all digits, classes, waiting and memory."""

import json
import math
from pathlib import Path
from typing import Any

from segnext.training.records import Records, Trained
from segnext.training.settings import Reporting
from tests.training.runs import run

MEASURES = ("val_miou", "val_pixel_accuracy")
ROW = Trained(1 / 3, 1e-3, 8.25, 0.125, 1_000_000)


def records(folder: Path, first_step: int = 0, *, hold: bool = False) -> Records:
    return Records(folder, MEASURES, first_step, hold)


def objects(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def steps(folder: Path) -> list[tuple[int, str]]:
    return [(row["step"], "val" if "val" in row else "loss") for row in objects(folder)]


def test_a_run_records_all_measures(data, tmp_path):
    evaluation = run(data, tmp_path, reporting=Reporting(eval_every=3, log_every=3, workers=0))
    assert steps(tmp_path) == [(3, "loss"), (3, "val"), (6, "loss"), (6, "val")]
    trained, evaluated = objects(tmp_path)[2:]
    assert evaluated["val"] == json.loads(json.dumps(evaluation.summary(data.classes)))
    assert set(evaluated["val"]["class_iou"]) == set(data.classes) and evaluated["seconds"] > 0
    assert 0 < trained["data_wait"] < 1 and trained["images_per_second"] > 0
    assert 50e6 < trained["memory"] < 50e9  # torch alone takes the lower
    digits = [len(repr(row["loss"])) for row in objects(tmp_path) if "loss" in row]
    assert max(digits) > 12  # results.csv has five


def test_losses_that_are_no_number_are_null(tmp_path):
    records(tmp_path).trained(1, ROW._replace(loss=math.nan))
    (row,) = objects(tmp_path)
    assert row == {"step": 1, **ROW._asdict(), "loss": None}


def test_rows_of_later_steps_and_half_a_row_are_dropped(tmp_path):
    first = records(tmp_path)
    for step in (1, 2, 3):
        first.trained(step, ROW)
    first.evaluated(2, (0.25, 0.5), 1.5, {"miou": 0.25})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('no json\n[1]\n{"step": 1, "lo')
    again = records(tmp_path, 2)
    assert steps(tmp_path) == [(1, "loss"), (2, "loss"), (2, "val")]
    assert again.measured == {2: 0.25} and again.evaluation_seconds == 1.5
    again.trained(3, ROW)
    assert steps(tmp_path)[-1] == (3, "loss")


def test_an_evaluation_that_results_csv_lacks_is_made_again(tmp_path):
    """The process died between the two files."""
    records(tmp_path).evaluated(2, (0.25, 0.5), 1.5, {"miou": 0.25})
    table = tmp_path / "results.csv"
    table.write_text(table.read_text().splitlines(keepends=True)[0])
    assert not records(tmp_path, 2).measured and not objects(tmp_path)


def test_a_run_from_before_these_files_goes_on(tmp_path):
    records(tmp_path).trained(1, ROW)
    (tmp_path / "results.jsonl").unlink()
    records(tmp_path, 1).trained(2, ROW)
    assert steps(tmp_path) == [(2, "loss")] and len((tmp_path / "results.csv").read_text().splitlines()) == 3


def test_rows_are_held_back(tmp_path):
    records(tmp_path).trained(1, ROW)
    before = (tmp_path / "results.jsonl").read_bytes()
    held = records(tmp_path, hold=True)
    held.trained(7, ROW)
    assert held.is_held and (tmp_path / "results.jsonl").read_bytes() == before
    held.begin({"results.jsonl": "new"})
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert json.loads((tmp_path / "new").read_text())["step"] == 7
