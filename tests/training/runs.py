"""Runs short real trainings of a narrow SegNeXt, and compares the files that they leave."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console
from safetensors import safe_open

from segnext.data.config import DataConfig
from segnext.evaluation.evaluate import Evaluation
from segnext.models import SegNeXt, build
from segnext.training.loop import CHECKPOINT, train
from segnext.training.settings import Reporting, TrainSettings

NARROW: dict[str, Any] = {
    "channels": (8, 16, 24, 32),
    "depths": (1, 1, 1, 2),
    "decoder_channels": 32,
    "rank": 4,
}
SETTINGS: dict[str, Any] = {"steps": 6, "batch_size": 2, "crop": 32, "warmup": 2, "seed": 3}


class Trigger(io.StringIO):
    """Stands for a console's file and calls `action` when a line holds `text`, so that a run can be interrupted then.

    It passes every line on to `copy`.
    """

    def __init__(self, text: str, action: Any, copy: TextIO | None = None) -> None:
        super().__init__()
        self.text = text
        self.action = action
        self.copy = copy

    def write(self, line: str) -> int:
        if self.text in line:
            self.action()
        if self.copy is not None:
            self.copy.write(line)
        return super().write(line)


def narrow(num_classes: int = 3, seed: int = 0, **overrides: Any) -> SegNeXt:
    torch.manual_seed(seed)
    model = build("segnext_t", num_classes=num_classes, **{**NARROW, **overrides})
    assert isinstance(model, SegNeXt)
    return model


def run(
    data: DataConfig,
    output: Path,
    *,
    model: SegNeXt | None = None,
    reporting: Reporting | None = None,
    resume: bool = False,
    overwrite: bool = False,
    file: io.StringIO | None = None,
    **settings: Any,
) -> Evaluation | None:
    return train(
        model or narrow(),
        data,
        output,
        TrainSettings(**{**SETTINGS, **settings}),
        reporting or Reporting(checkpoint_every=3, log_every=1, workers=0),
        resume=resume,
        overwrite=overwrite,
        console=Console(file=file or io.StringIO(), width=200),
    )


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


def header(path: Path) -> dict[str, Any]:
    """Return a checkpoint's header without the time."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    assert float(metadata.pop("seconds")) > 0
    return {**metadata, "settings": json.loads(metadata["settings"])}


def rows(folder: Path) -> list[tuple[str, ...]]:
    """Return results.csv without the speed."""
    with (folder / "results.csv").open(newline="") as file:
        return [
            tuple(value for key, value in row.items() if key != "images_per_second")
            for row in csv.DictReader(file)
        ]


def objects(folder: Path) -> list[dict[str, Any]]:
    """Return results.jsonl without times and memory, which two equal runs may have otherwise."""
    own = ("images_per_second", "data_wait", "memory", "seconds")
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in own} for line in lines]


def assert_equal_runs(first: Path, second: Path) -> None:
    """Assert that model, average, optimiser, random states, settings, losses and evaluations are equal in all bits."""
    for name in (CHECKPOINT, "final.safetensors"):
        mine, theirs = tensors(first / name), tensors(second / name)
        assert mine.keys() == theirs.keys()
        differing = [key for key in mine if not torch.equal(mine[key], theirs[key])]
        assert not differing, f"{name}: {len(differing)} of {len(mine)} tensors differ: {differing[:3]}"
    assert header(first / CHECKPOINT) == header(second / CHECKPOINT)
    assert rows(first) == rows(second)
    assert objects(first) == objects(second)
