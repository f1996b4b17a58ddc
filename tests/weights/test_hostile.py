"""Tests that hostile files are refused in one line, at once and with little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.weights.hostile import HOSTILE

SECONDS = 8.0  # the most instructions take two on a free core
MEMORY = 400 * 2**20


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Read all files in one process, which a hostile file may kill; those after it then have no outcome."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = []
    for case, (write, _) in HOSTILE.items():
        path = folder / case
        write(path)
        paths.append(str(path))
    child = subprocess.run(
        [sys.executable, "-m", "tests.weights.reading_child", *paths],
        capture_output=True,
        text=True,
        timeout=300,
    )
    return dict(zip(HOSTILE, map(json.loads, child.stdout.splitlines()), strict=False))


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(case: str, outcomes: dict[str, Any]) -> None:
    assert case in outcomes, "the process died"
    result, seconds, memory = outcomes[case]
    assert result.startswith("ValueError: ") or result.startswith("Refused: ")
    assert HOSTILE[case][1] in result
    assert len(result.splitlines()) == 1 and len(result) < 600 and case in result, "one line names the file"
    assert seconds < SECONDS and memory < MEMORY
