"""A run is recorded in results.csv and in printed lines."""

import io
import math
import re
from pathlib import Path

from rich.console import Console

from segnext.training.log import RunLog
from segnext.training.settings import Reporting


def log_in(folder: Path, *, first_step: int = 0, every: int = 2, losses=None, terminal: bool = False):
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=terminal)
    reporting = Reporting(log_every=every)
    return RunLog(folder, 6, first_step, reporting, [] if losses is None else losses, console), file


def train(log: RunLog, steps: range, **changes: float) -> None:
    """Record steps of one second and one image each, whose batch was there after a quarter of it."""
    for step in steps:
        log.training(
            step,
            **{"loss": 1.0, "learning_rate": 1e-3, "images": 1, "seconds": 1.0, "waited": 0.25, **changes},
        )


def lines(folder: Path) -> list[str]:
    return (folder / "results.csv").read_text().splitlines()


def test_losses_are_averaged_without_unlabelled_batches(tmp_path):
    log, printed = log_in(tmp_path, every=3)
    with log:
        for step, loss in enumerate((1.0, math.nan, 2.0, math.nan, math.nan, math.nan), start=1):
            train(log, range(step, step + 1), loss=loss, images=4, seconds=0.5)
    assert lines(tmp_path)[1:] == ["3,1.50000,0.001,8.00,,", "6,nan,0.001,8.00,,"]
    (line, _) = printed.getvalue().splitlines()
    words, memory = line.split("  wait 50%  ")
    assert words == "step 3/6  loss 1.5000  lr 1.00e-03  8.0 images/s" and re.fullmatch(
        r"\d+\.\d GiB", memory
    )


def test_the_last_step_has_a_row(tmp_path):
    log, _ = log_in(tmp_path, every=4)
    with log:
        for step in range(1, 7):
            train(log, range(step, step + 1), loss=float(step))
    assert [line.split(",")[:2] for line in lines(tmp_path)[1:]] == [["4", "2.50000"], ["6", "5.50000"]]


def test_rows_of_a_lost_session_are_dropped(tmp_path):
    log, _ = log_in(tmp_path)
    with log:
        train(log, range(1, 6))
        log.evaluation(5, (0.5, 0.75), 1.0, {})
    before = lines(tmp_path)
    log_in(tmp_path, first_step=3)
    assert lines(tmp_path) == before[:2]
    log_in(tmp_path, first_step=0)
    assert lines(tmp_path) == before[:1]


def test_a_damaged_file_does_not_stop_a_run(tmp_path):
    (tmp_path / "results.csv").write_text("step,loss,old_column\n2,1.0,x\n4,0.5\nga")
    log_in(tmp_path, first_step=6)
    assert [line.split(",")[:2] for line in lines(tmp_path)[1:]] == [["2", "1.0"], ["4", "0.5"]]


def test_losses_of_the_session_before_count(tmp_path):
    losses = [4.0]
    log, _ = log_in(tmp_path, first_step=1, losses=losses)
    with log:
        train(log, range(2, 3), loss=2.0)
        assert losses == []
        train(log, range(3, 4), loss=9.0)
    assert losses == [9.0] and lines(tmp_path)[1].startswith("2,3.00000,")


def test_a_terminal_shows_progress_instead_of_rows(tmp_path):
    log, printed = log_in(tmp_path, terminal=True)
    with log:
        train(log, range(1, 7))
        log.evaluation(6, (0.5, 0.75), 1.0, {})
    assert "6/6" in printed.getvalue() and "mIoU 0.5000 (1 s)" in printed.getvalue()
    assert re.search(r"loss 1\.0000  lr 1\.00e-03  1\.0 images/s  wait 25%  \d\.\d GiB", printed.getvalue())
    assert "step 2/6" not in printed.getvalue()
    assert "step 6/6  val mIoU 0.5000  pixel accuracy 0.7500  (1 s)" in printed.getvalue()
