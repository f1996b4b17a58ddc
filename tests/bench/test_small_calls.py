"""bench.small_calls: the parts of a call add up, a wrong result gets no number, and the result can be compared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from bench import small_calls
from segnext_kernels.spec import all_specs

SPECS = all_specs()


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SPECS)
def test_parts_of_a_call(name: str) -> None:
    cost = small_calls.measure(SPECS[name], rounds=2)
    assert min(dataclasses.astuple(cost)) > 0
    assert cost.whole == pytest.approx(cost.rest + cost.choice + cost.kernel)


def test_wrong_result_gets_no_number() -> None:
    spec = SPECS["dwconv_gelu"]
    wrong = dataclasses.replace(spec, public=lambda *args: spec.public(*args) * 1.01)
    with pytest.raises(AssertionError, match="dwconv_gelu"):
        small_calls.measure(wrong, rounds=2)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_calls.main(["--rounds", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*/small_calls/*.json")
    assert small_calls.read(path).keys() == SPECS.keys()
    assert json.loads(path.read_text())["machine"]["threads"] == 1
    assert "of before" not in capsys.readouterr().out
    small_calls.main(["resize_sum", "--rounds", "1", "--before", str(path)])
    header, _, row = capsys.readouterr().out.strip().splitlines()
    assert "of before" in header and row.startswith("| `resize_sum`")


def test_unknown_op(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        small_calls.main(["conv9d"])
    assert "no such op: conv9d; there are channel_norm, " in capsys.readouterr().err
