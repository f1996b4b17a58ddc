"""The benchmark of the depthwise family measures what it says, after a comparison of the results."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import depthwise_family, results
from bench.results import OURS


def test_one_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    depthwise_family.main(["van-b0-s4-c256-h7w7", "--seconds", "0", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*/depthwise_family/*.json")
    tables = results.read(path).tables()
    assert list(tables) == [depthwise_family.FORWARD, depthwise_family.BOTH]
    assert all(
        set(row.times) == {OURS, "eager", "eager channels_last", "torch.compile"}
        for rows in tables.values()
        for row in rows
    )
    assert "ratio to best peer" in capsys.readouterr().out


def test_every_layer_has_a_workload_in_both_directions() -> None:
    names = [name for name, _ in depthwise_family.workloads()]
    assert len(names) == len(set(names)) == 2 * len(depthwise_family.SPEC.model_shapes)
