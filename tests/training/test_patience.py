"""A run with patience ends when its evaluations do not get better, and says so; a resumed one ends at the same step."""

import dataclasses
import io
from pathlib import Path

import pytest

from segnext import create_model
from segnext.signals import StoppedAtOnce
from segnext.training.loop import CHECKPOINT, FINAL
from segnext.training.patience import exhausted
from segnext.training.settings import Reporting
from tests.training.processes import run_together
from tests.training.runs import Trigger, assert_equal_runs, header, rows, run

# The weights hardly move, and the statistics of a few batches do not help: the first evaluation, after two steps,
# stays the best.
STILL = {"steps": 20, "lr": 1e-12, "ema": 0.0, "patience": 2}
OFTEN = Reporting(eval_every=2, checkpoint_every=3, log_every=1, workers=0)


@pytest.fixture(scope="module")
def ended(data, tmp_path_factory) -> Path:
    """Return the folder of a run that ended after six of twenty steps."""
    folder = tmp_path_factory.mktemp("ended")
    run(data, folder, reporting=OFTEN, **STILL)
    return folder


@pytest.mark.parametrize(
    ("measures", "patience", "why"),
    [
        ({}, 1, None),
        ({10: 0.5, 20: 0.4, 30: 0.3}, 0, None),
        ({10: 0.5, 20: 0.4}, 2, None),
        ({10: 0.5, 20: 0.5, 30: 0.3}, 2, "no better mIoU than 0.50000 of step 10 in 2 evaluations"),
        ({30: 0.6, 10: 0.5, 20: 0.4}, 1, None),
        ({10: 0.5, 20: 0.4, 30: 0.6, 40: 0.6}, 1, "no better mIoU than 0.60000 of step 30 in 1 evaluation"),
    ],
    ids=["none", "never", "not-yet", "equal-is-not-better", "better-again", "since-the-best"],
)
def test_when_patience_is_exhausted(measures, patience, why):
    assert exhausted(measures, patience, "mIoU") == why


def test_checkpoint_weights_and_terminal_say_so(data, ended, tmp_path):
    assert [row[0] for row in rows(ended) if row[3]] == ["2", "4", "6"]
    told = header(ended / CHECKPOINT)
    assert told["step"] == "6" and told["ended"].startswith("no better mIoU than 0.")
    assert told["ended"].endswith(" of step 2 in 2 evaluations")
    metadata = create_model(weights=ended / FINAL).metadata
    assert metadata["recipe"]["ended"] == f"at step 6: {told['ended']}"
    assert 0 < metadata["metrics"]["miou"] < 0.1 and rows(ended)[-1][0] == "6"  # those of the last step
    printed = io.StringIO()
    run(data, tmp_path, reporting=OFTEN, file=printed, **STILL)
    assert printed.getvalue().splitlines()[-1] == f"ended at step 6 of 20: {told['ended']}"


def test_a_run_that_gets_better_takes_all_steps(data, tmp_path):
    run(data, tmp_path, reporting=OFTEN, steps=6, patience=3)
    assert header(tmp_path / CHECKPOINT)["step"] == "6" and not header(tmp_path / CHECKPOINT)["ended"]
    assert "ended" not in create_model(weights=tmp_path / FINAL).metadata["recipe"]


@pytest.mark.parametrize("line", ["step 2/20  val", "step 5/20  loss", "step 6/20  val", "ended at step 6"])
def test_a_resumed_run_ends_at_the_same_step(data, ended, tmp_path, line):
    def stop() -> None:
        raise StoppedAtOnce

    with pytest.raises(StoppedAtOnce):
        run(data, tmp_path, reporting=OFTEN, file=Trigger(line, stop), **STILL)
    run(data, tmp_path, reporting=OFTEN, resume=True, **STILL)
    assert_equal_runs(ended, tmp_path)


def test_a_run_that_has_ended_ends_again(data, ended, tmp_path):
    run(data, tmp_path, reporting=OFTEN, **STILL)
    (tmp_path / "results.csv").unlink()  # the checkpoint knows
    printed = io.StringIO()
    evaluation = run(data, tmp_path, reporting=OFTEN, file=printed, resume=True, **STILL)
    assert evaluation is not None and "ended at step 6 of 20: no better mIoU" in printed.getvalue()
    assert header(tmp_path / CHECKPOINT) == header(ended / CHECKPOINT)


def test_all_processes_end_together(data, tmp_path):
    settings = "reporting=Reporting(eval_every=2, checkpoint_every=3, log_every=1, workers=0), batch_size=4"
    first, second = run_together(
        2, data, tmp_path, f"{settings}, steps=20, lr=1e-12, ema=0.0, patience=2, file=sys.stdout"
    )
    assert "ended at step 6 of 20: no better mIoU" in first and not second
    assert header(tmp_path / CHECKPOINT)["step"] == "6"


def test_patience_needs_evaluations(data, tmp_path):
    with pytest.raises(ValueError, match="eval_every must be above 0 for patience 2, got 0"):
        run(data, tmp_path / "run", patience=2)
    train_only = dataclasses.replace(data, splits={"train": data.splits["train"]})
    with pytest.raises(ValueError, match="patience needs a val split, got 2 without one"):
        run(train_only, tmp_path / "run", reporting=OFTEN, patience=2)
    assert not (tmp_path / "run").exists()


def test_the_evaluations_of_a_run_with_patience_stay_the_same(data, ended):
    with pytest.raises(ValueError, match="got eval_every 2 -> 3; repeat"):
        run(data, ended, reporting=dataclasses.replace(OFTEN, eval_every=3), resume=True, **STILL)
