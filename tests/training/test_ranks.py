"""Several processes train as one process does that computes the same parts of each batch one after another."""

import io
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from segnext import create_model
from segnext.data.config import DataConfig, load_data_config
from segnext.evaluation.evaluate import evaluate
from segnext.training.loop import CHECKPOINT
from segnext.training.settings import Reporting
from tests.data.synthetic import write_data_set
from tests.processes import ROOT, ended
from tests.training.processes import run_together, start, yaml_of
from tests.training.runs import assert_equal_runs, header, objects, rows, run, tensors

FOUR = "batch_size=4, steps=4"
EVERY_STEP = Reporting(eval_every=2, checkpoint_every=1, log_every=1, workers=0)
TEXT = "reporting=Reporting(eval_every=2, checkpoint_every=1, log_every=1, workers=0)"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataConfig:
    return load_data_config(write_data_set(tmp_path_factory.mktemp("houses"), val=3))


@pytest.fixture(scope="module")
def accumulated(data, tmp_path_factory) -> Path:
    """Return the folder of one process that computes each batch of four in two parts."""
    folder = tmp_path_factory.mktemp("accumulated")
    run(data, folder, reporting=EVERY_STEP, batch_size=4, steps=4, accumulate=2)
    return folder


@pytest.fixture(scope="module")
def together(data, tmp_path_factory) -> Path:
    """Return the folder of two processes, each of which computes two images of four.

    Each draws other initial weights: those of the first must count.
    """
    folder = tmp_path_factory.mktemp("together")
    run_together(2, data, folder, f"{FOUR}, {TEXT}, model=narrow(seed=rank)")
    return folder


def assert_close_runs(first: Path, second: Path) -> None:
    """Assert that losses, evaluations, weights and what AdamW kept agree, but for batch-norm statistics."""
    mine, theirs = rows(first), rows(second)
    assert [row[0] for row in mine] == [row[0] for row in theirs]
    losses, others = ([row["loss"] for row in objects(folder) if "loss" in row] for folder in (first, second))
    assert len(losses) == 4 and losses == pytest.approx(others, rel=1e-5, abs=0)
    one, other = tensors(first / CHECKPOINT), tensors(second / CHECKPOINT)
    assert one.keys() == other.keys()
    for key in one:
        if not key.startswith("random.") and "running_" not in key and "num_batches" not in key:
            # Adam divides by the root of tiny second moments, which makes rounding errors larger.
            torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-4, msg=key)


def test_two_processes_are_two_parts_of_one(accumulated, together):
    assert_close_runs(accumulated, together)
    assert sorted(path.name for path in together.iterdir() if path.suffix != ".png") == sorted(
        path.name for path in accumulated.iterdir() if path.suffix != ".png"
    )


def test_the_evaluation_is_shared_and_counts_every_image_once(data, together):
    model = create_model(weights=together / "final.safetensors").eval()
    expected = evaluate(model, data.open("val")).summary(data.classes)
    assert expected["images"] == 3 and model.metadata["metrics"] == expected


def test_a_run_goes_on_with_another_number_of_processes(data, accumulated, tmp_path):
    """Two processes begin; one with two parts ends as if it had done all, and then two take it up again."""
    stop = "Trigger('step 2/4  val', lambda: raise_signal(SIGTERM), sys.stdout)"
    folder = tmp_path / "run"
    processes = start(2, data, folder, f"run(data, folder, {FOUR}, {TEXT}, file={stop})")
    for status, _, errors in ended(processes):
        assert status != 0 and errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert header(folder / CHECKPOINT)["step"] == "2"
    again = {"reporting": EVERY_STEP, "batch_size": 4, "steps": 4, "resume": True}
    with pytest.raises(ValueError, match="got accumulate 1 -> 4, crop 32 -> 64, ranks 2 -> 1; repeat"):
        run(data, folder, accumulate=4, crop=64, **again)
    report = io.StringIO()
    run(data, folder, accumulate=2, file=report, **again)
    assert "note: ranks 2 -> 1 since the checkpoint" in report.getvalue()
    assert_close_runs(accumulated, folder)


def test_a_resumed_run_of_two_processes_is_bit_identical(data, together, tmp_path):
    """A signal to the second process stops both after the same step, and the first writes the checkpoint."""
    rare = "reporting=Reporting(eval_every=2, checkpoint_every=100, log_every=1, workers=0)"
    signalled = (
        "import segnext.training.loop as loop\n"
        "step = loop.Run._step\n"
        "def stopping(self, *arguments):\n"
        "    if rank == 1 and self.state.step == 2:\n"
        "        raise_signal(SIGTERM)\n"
        "    return step(self, *arguments)\n"
        "loop.Run._step = stopping\n"
        f"run(data, folder, {FOUR}, {rare})"
    )
    first, second = ended(start(2, data, tmp_path, signalled))
    assert "stopping after this step" in second[2] and "stopping after this step" not in first[2]
    assert all(errors.rstrip().endswith("KeyboardInterrupt") for *_, errors in (first, second))
    assert header(tmp_path / CHECKPOINT)["step"] == "3"
    # Initial weights differ here in each process: both must come from the checkpoint.
    run_together(2, data, tmp_path, f"{FOUR}, {TEXT}, resume=True, model=narrow(seed=5 + rank)")
    assert_equal_runs(together, tmp_path)


def test_a_process_that_fails_ends_all_and_the_first_saves(data, tmp_path):
    """The second process cannot read an image after two steps."""
    failing = (
        "from segnext.data.batches import TrainingBatches\n"
        "batch = TrainingBatches.batch\n"
        "def reading(self, step):\n"
        "    if rank == 1 and step == 2:\n"
        "        raise ValueError('no such image')\n"
        "    return batch(self, step)\n"
        "TrainingBatches.batch = reading\n"
        f"run(data, folder, {FOUR}, reporting=Reporting(checkpoint_every=100, log_every=1, workers=0))"
    )
    began = time.monotonic()
    first, second = ended(start(2, data, tmp_path, failing))
    assert time.monotonic() - began < 60
    assert first[0] != 0 and "RankFailed: train: all 2 processes must be at work, got none" in first[2]
    assert second[0] != 0 and second[2].rstrip().endswith("ValueError: no such image")
    assert header(tmp_path / CHECKPOINT)["step"] == "2"
    assert "stopped at step 2; go on with --resume" in first[2] and "--resume" not in second[2]


def test_the_others_end_if_the_first_cannot_begin(data, together):
    first, second = ended(start(2, data, together, f"run(data, folder, {FOUR})"))
    assert "FileExistsError: train: output must not hold a run" in first[2]
    assert second[0] != 0 and "RankFailed" in second[2].rstrip().splitlines()[-1]


def test_weights_whose_logits_are_not_finite_end_all(data, tmp_path):
    ended_all = ended(start(2, data, tmp_path, "run(data, folder, batch_size=4, steps=1, warmup=0, lr=1e30)"))
    for _, _, errors in ended_all:
        assert "must give finite logits, got others on the val split" in errors.rstrip().splitlines()[-1]
    assert not (tmp_path / "final.safetensors").exists()


def test_batches_that_cannot_be_cut_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"multiple of 3 \(1 processes x accumulate 3\), got 4$"):
        run(data, tmp_path, batch_size=4, accumulate=3)
    with pytest.raises(
        ValueError, match=r"batch_size must be at least 8 \(.*\) for crops of up to 32 pixels"
    ):
        run(data, tmp_path, batch_size=4, accumulate=4)
    assert not list(tmp_path.iterdir())


def test_torchrun_starts_the_command(data, tmp_path):
    words = shlex.split(
        "-m torch.distributed.run --standalone --nproc-per-node 2 -m segnext train --device cpu "
        "--model t --steps 1 --warmup 0 --batch-size 4 --crop 32 --workers 0"
    )
    command = [sys.executable, *words, "-o", str(tmp_path / "run"), str(yaml_of(data))]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 1/1  loss") == done.stdout.count("weights: ") == 1
    assert header(tmp_path / "run" / CHECKPOINT)["settings"]["ranks"] == 2
