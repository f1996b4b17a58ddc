"""Tests the measurement of what training waits for: same batches, plausible numbers, a document that shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import data_loading, readme
from segnext.data.batches import Batch, TrainingBatches
from segnext.data.config import load_data_config
from segnext.data.transforms import Augmentation
from tests.data.miniatures import write_miniature


@pytest.fixture
def camvid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CamVid, and few small batches of it."""
    for name, value in (
        ("CROP", 32),
        ("BATCH", 2),
        ("STEPS", 4),
        ("EVERY", 2),
        ("BATCHES", 4),
        ("ROUNDS", 1),
    ):
        monkeypatch.setattr(data_loading, name, value)
    monkeypatch.setattr(data_loading, "WORKERS", (1, 2))
    monkeypatch.setattr(data_loading, "DTYPES", ("bfloat16",))
    monkeypatch.setattr(data_loading, "SPIN_SECONDS", 0.05)
    write_miniature("camvid", "inside", tmp_path / "camvid")
    return tmp_path / "camvid"


def test_a_run_from_the_command_line(camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_loading.main(["--data", str(camvid), "--results", str(tmp_path / "results")])
    (path,) = tmp_path.glob("results/*/data_loading/*.json")
    found = json.loads(path.read_text())
    row = found["training"]["bfloat16"]
    assert row["images_per_second"] > 0 and 0 <= row["data_wait"] < 1
    assert 1e8 < row["memory"] < 1e11  # bytes
    assert {name: set(speeds) for name, speeds in found["samples_per_second"].items()} == {
        "threads": {"1", "2"},
        "processes": {"1", "2"},
    }
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    (text,) = readme.waits_for_data(path.parent.parent)
    assert "bfloat16" in text and f"{row['data_wait']:.2%}" in text


def test_other_batches_are_noticed(camvid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_data_config("camvid", camvid)
    batches = TrainingBatches(config.open("train"), Augmentation(32), 2, seed=0)
    data_loading.expect_same(batches)
    whole = TrainingBatches.collate

    def other(self: TrainingBatches, step: int, samples: list) -> Batch:  # type: ignore[type-arg]
        batch = whole(self, step, samples)
        if torch.utils.data.get_worker_info() is not None:
            batch.images[0, 0, 0, 0] ^= 1
        return batch

    monkeypatch.setattr(TrainingBatches, "collate", other)
    with pytest.raises(AssertionError, match="the batches differ"):
        data_loading.expect_same(batches)
