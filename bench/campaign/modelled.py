"""Looks up what the issue model says, so that each measurement stands beside the model of its day."""

from __future__ import annotations

import functools
import json
from typing import Any

from bench.campaign.cases import Kernel
from bench.machine import ROOT

TABLE = ROOT / "bench" / "issue_model.json"
NOTE = "modelled us"


@functools.cache
def _rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
    return rows


def of_kernel(kernel: Kernel, shape: str) -> dict[str, float]:
    """Return the modelled microseconds as a note; of forward and backward if both are timed. Empty if unknown."""
    name, _, batch = shape.partition("*")
    name = f"{name}-n={batch}" if batch else name
    directions = ("forward",) if kernel.direction == "forward" else ("forward", "backward")
    found = [_rows().get(f"{kernel.op} {each} {kernel.backend} bf16 nhwc {name}") for each in directions]
    return _note(found)


def of_model(size: str, batch: int, height: int, width: int) -> dict[str, float]:
    """Return the modelled microseconds of a deployed model as a note; empty if unknown."""
    return _note([_rows().get(f"segnext_{size} {height}x{width} batch {batch} bf16 to the mask")])


def _note(rows: list[dict[str, Any] | None]) -> dict[str, float]:
    if any(row is None for row in rows):
        return {}
    return {NOTE: round(sum(row["us"] for row in rows if row is not None), 2)}
