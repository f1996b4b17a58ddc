"""Images that cannot be read stop a run, or the next ones take their places."""

import io
from pathlib import Path

import pytest
import torch

from segnext.data.config import DataConfig, load_data_config
from segnext.training.settings import Reporting
from tests.data.synthetic import write_data_set
from tests.training.runs import assert_equal_runs, rows, run

SKIP = Reporting(checkpoint_every=3, log_every=1, workers=0, on_error="skip")


@pytest.fixture
def damaged(tmp_path) -> DataConfig:
    """Return a data set of five images of which one is cut."""
    yaml = write_data_set(tmp_path / "houses", val=1)
    image = tmp_path / "houses" / "images" / "train" / "scene03.png"
    image.write_bytes(image.read_bytes()[:200])
    return load_data_config(yaml)


def test_a_bad_image_stops_a_run_by_default(damaged, tmp_path):
    with pytest.raises(ValueError, match=r"scene03\.png: cannot be decoded"):
        run(damaged, tmp_path / "run")


def test_a_bad_image_is_skipped_counted_and_listed(damaged, tmp_path):
    printed = io.StringIO()
    run(damaged, tmp_path / "run", reporting=SKIP, file=printed)
    assert len(rows(tmp_path / "run")) == 7
    assert "warning: " in printed.getvalue() and "1 training images were skipped" in printed.getvalue()
    (line,) = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert "scene03.png: cannot be decoded" in line
    assert line in printed.getvalue()
    workers = Reporting(checkpoint_every=3, log_every=1, workers=2, on_error="skip")
    run(damaged, tmp_path / "workers", reporting=workers)
    assert_equal_runs(tmp_path / "run", tmp_path / "workers")


def test_without_a_bad_image_skipping_changes_nothing(tmp_path):
    data = load_data_config(write_data_set(tmp_path / "houses", val=1))
    run(data, tmp_path / "stop", steps=2, warmup=0)
    run(data, tmp_path / "skip", steps=2, warmup=0, reporting=SKIP)
    assert_equal_runs(tmp_path / "stop", tmp_path / "skip")
    assert not (tmp_path / "skip" / "skipped.txt").exists()


def test_a_run_that_replaces_another_has_a_list_of_its_own(damaged, tmp_path):
    run(damaged, tmp_path / "run", steps=5, warmup=0, reporting=SKIP)
    damaged.splits["train"].images.joinpath("scene03.png").unlink()
    damaged.splits["train"].labels.joinpath("scene03.png").unlink()
    run(damaged, tmp_path / "run", steps=2, warmup=0, reporting=SKIP, overwrite=True)
    assert not (tmp_path / "run" / "skipped.txt").exists()


def test_nothing_that_can_be_read_ends_the_run(tmp_path):
    data = load_data_config(write_data_set(tmp_path / "houses", train=2, val=1))
    for image in Path(data.splits["train"].images).iterdir():
        image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(
        ValueError, match=r"one training image must be readable, got 2 that are not, such as /"
    ):
        run(data, tmp_path / "run", reporting=SKIP)


def test_synchronised_statistics_need_a_gpu(tmp_path):
    data = load_data_config(write_data_set(tmp_path / "houses", val=1))
    with pytest.raises(ValueError, match="device must be a GPU for sync_bn, got cpu"):
        run(data, tmp_path / "run", sync_bn=True)
    assert not (tmp_path / "run").exists() and torch.is_grad_enabled()
