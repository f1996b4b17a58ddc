"""TensorBoard reads back what a run wrote for it."""

import builtins
import io
import json
import sys
from pathlib import Path

import pytest

from segnext.signals import StoppedAtOnce
from segnext.training.events import EVENTS, scalars
from segnext.training.settings import Reporting
from tests.training.runs import Trigger, assert_equal_runs, run

pytest.importorskip("tensorboard")
REPORTING = {"eval_every": 3, "checkpoint_every": 3, "log_every": 1, "workers": 0}
WITH, WITHOUT = Reporting(**REPORTING, tensorboard=True), Reporting(**REPORTING)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """Return the folder of a run of six steps without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    run(data, folder, reporting=WITH)
    return folder


def stop_at_once() -> None:
    raise StoppedAtOnce


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values by name, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    names = found.Tags()["scalars"]
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in names}


def assert_says_what_the_rows_say(folder: Path) -> None:
    expected: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name, value in scalars(row).items():
            expected.setdefault(name, []).append((row["step"], value))
    shown = read(folder)
    assert shown.keys() == expected.keys()
    for name, values in expected.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in values], name
        assert [value for _, value in shown[name]] == pytest.approx([value for _, value in values]), name


def test_all_numbers_are_there(data, whole):
    shown = read(whole)
    trained = {"loss", "learning_rate", "images_per_second", "data_wait", "memory"}
    assert {name.removeprefix("train/") for name in shown if name.startswith("train/")} == trained
    assert {"val/miou", "val/seconds"} | {f"val/class_iou/{name}" for name in data.classes} < shown.keys()
    assert [step for step, _ in shown["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in shown["val/miou"]] == [3, 6]
    assert_says_what_the_rows_say(whole)


def test_events_change_nothing_else(data, whole, tmp_path):
    run(data, tmp_path, reporting=WITHOUT)
    assert_equal_runs(whole, tmp_path)
    assert not list(tmp_path.glob(EVENTS))


def test_a_resumed_run_forgets_what_was_lost(data, tmp_path):
    with pytest.raises(StoppedAtOnce):
        run(data, tmp_path, reporting=WITH, file=Trigger("step 5/6", stop_at_once))
    assert [step for step, _ in read(tmp_path)["train/loss"]] == [1, 2, 3, 4, 5]
    run(data, tmp_path, reporting=WITH, resume=True)
    assert len(list(tmp_path.glob(EVENTS))) == 2
    assert [step for step, _ in read(tmp_path)["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert_says_what_the_rows_say(tmp_path)


def test_earlier_sessions_without_events_are_caught_up(data, tmp_path):
    with pytest.raises(StoppedAtOnce):
        run(data, tmp_path, reporting=WITHOUT, file=Trigger("step 4/6", stop_at_once))
    run(data, tmp_path, reporting=WITH, resume=True)
    assert_says_what_the_rows_say(tmp_path)


def test_a_run_that_replaces_another_has_its_own_events(data, whole, tmp_path):
    run(data, tmp_path, reporting=WITH, steps=3, warmup=0)
    (old,) = tmp_path.glob(EVENTS)
    with pytest.raises(StoppedAtOnce):
        run(data, tmp_path, reporting=WITH, overwrite=True, file=Trigger("step 2/6", stop_at_once))
    assert list(tmp_path.glob(EVENTS)) == [old]
    run(data, tmp_path, reporting=WITH, overwrite=True)
    assert not old.exists()
    assert_says_what_the_rows_say(tmp_path)
    assert read(tmp_path)["val/miou"] == read(whole)["val/miou"]


def test_events_that_cannot_be_written_end_no_run(data, tmp_path, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "flush", full)
    printed = io.StringIO()
    run(data, tmp_path, reporting=WITH, file=printed)
    ends = [line for line in printed.getvalue().splitlines() if line.startswith("TensorBoard")]
    assert ends == ["TensorBoard's events end here: [Errno 28] No space left on device"]


def test_without_the_package_the_error_names_the_extra(data, tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name: str, *rest: object) -> object:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"needs tensorboard, .* pip install 'segnext\[tensorboard\]'"):
        run(data, tmp_path / "run", reporting=WITH)
    assert not (tmp_path / "run").exists()
