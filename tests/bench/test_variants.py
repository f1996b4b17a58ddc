"""The benchmarks of variants measure what they say, after a comparison of the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from bench import contexts, results, variants
from bench.peers import Run
from bench.results import OURS, Timing
from segnext.models.config import CONTEXTS


def once(runs: Mapping[str, Run], seconds: float) -> dict[str, Timing]:
    """Return a time of nothing for each variant, since only the comparison of their results counts here."""
    return dict.fromkeys(runs, Timing(1.0, 1.0, 1.0, 2))


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("workload", contexts.WORKLOADS, ids=lambda workload: workload.name)
def test_other_ways_give_the_same(
    workload: contexts.Workload, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "SIDE", 12)
    if backward and not workload.learns:
        pytest.skip("nothing is differentiated")
    row = contexts.measure(workload, "T", backward, once, 0.0)
    assert len(row.times) == 1 + 2 * len(workload.ways)
    assert workload.name in CONTEXTS


def test_a_wrong_result_gets_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = contexts.Workload("nl", lambda q, k, v: q + k + v, {"bmm": contexts.attention}, (2, 2))
    monkeypatch.setattr(contexts, "SIDE", 4)
    monkeypatch.setattr(contexts, "WORKLOADS", (wrong,))
    rows, without_number = variants.measure(["context nl, T"], 0.0)
    assert rows == []
    assert "of the largest value apart" in without_number["context nl, T"]


def test_strip_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants.main(["t4-c256-h16w16, strips 7, 11", "--seconds", "0", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*/variants/*.json")
    tables = results.read(path).tables()
    assert list(tables) == [variants.STRIPS_FORWARD, variants.STRIPS_BOTH]
    sets = {row.name.partition("strips ")[2] for rows in tables.values() for row in rows}
    assert sets == {"7, 11", "7, 11, 21", "7, 11, 21, 31"}
    assert all(OURS in row.times and len(row.times) == 3 for rows in tables.values() for row in rows)
    assert "ratio to best peer" in capsys.readouterr().out


def test_whole_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "SIDE", 64)
    monkeypatch.setattr(variants, "timings", once)
    rows, without_number = variants.measure(["_mlp, to", "_nogate, to"], 0.0)
    assert [row.name for row in rows] == ["segnext_t_nogate", "segnext_t_mlp"]
    assert without_number == {} and all(row.table == variants.TO_THE_MASK for row in rows)
    monkeypatch.setattr(variants, "TOLERANCE", 0.0)
    assert "of the largest one apart" in variants.measure(["_mlp, to"], 0.0)[1]["segnext_t_mlp, to the mask"]


def test_every_set_is_one_the_op_takes() -> None:
    names = [name for name, _ in variants.strip_samples()]
    assert len(names) == len(set(names)) == 4 * len(variants.STRIP_SETS)
    assert max(map(len, variants.STRIP_SETS)) == 4
    assert torch.is_tensor(next(variants.strip_samples())[1].make(h=3, w=3)[0])
