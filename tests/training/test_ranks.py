"""Several processes train as one process does that computes the same parts of each batch one after another."""

import re
from pathlib import Path

import pytest
import torch

from segnext.data.config import DataConfig, load_data_config
from segnext.training.loop import CHECKPOINT
from segnext.training.settings import Reporting
from tests.data.synthetic import write_data_set
from tests.training.processes import ended, run_together, start
from tests.training.runs import assert_equal_runs, header, rows, run, tensors

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
    """Return the folder of two processes, each of which computes two images of four."""
    folder = tmp_path_factory.mktemp("together")
    run_together(2, data, folder, f"{FOUR}, {TEXT}")
    return folder


def assert_close_runs(first: Path, second: Path) -> None:
    """Assert that losses, evaluations, weights and what AdamW kept agree, but for batch-norm statistics."""
    mine, theirs = rows(first), rows(second)
    assert [row[0] for row in mine] == [row[0] for row in theirs]
    assert [float(r[1]) for r in mine if r[1]] == pytest.approx([float(r[1]) for r in theirs if r[1]], abs=2e-5)
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


def test_equal_processes_are_equal(data, together, tmp_path):
    run_together(2, data, tmp_path, f"{FOUR}, {TEXT}")
    assert_equal_runs(together, tmp_path)
