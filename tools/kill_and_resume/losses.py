"""Reads the losses of a run that is under way, from its results.jsonl: with a row per step they are exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from segnext.atomic import whole_lines
from segnext.training.records import ROWS


class Step(NamedTuple):
    """One step: its number, its loss, and the images that it saw per second."""

    number: int
    loss: float
    images_per_second: float


def read(folder: Path, after: int = 0) -> list[Step]:
    """Return the steps in a run's folder that come after a number."""
    path = folder / ROWS
    rows = [json.loads(line) for line in whole_lines(path)] if path.exists() else []
    steps = [Step(row["step"], row["loss"], row["images_per_second"]) for row in rows if "loss" in row]
    return [step for step in steps if step.number > after]


def identity(folder: Path) -> int | None:
    """Return what tells the file from the one that a resumed process writes in its place; None without a file."""
    path = folder / ROWS
    return path.stat().st_ino if path.exists() else None
