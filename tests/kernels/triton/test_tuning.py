"""Tests launch configurations: which one is chosen, what is measured, and the file that remembers it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import segnext_kernels
from segnext_kernels.triton import tuning
from segnext_kernels.triton.tuning import Config, Space, config

SMALL, LARGE, HUGE = config(BLOCK=16), config(BLOCK=32, num_warps=8), config(BLOCK=2**16)
SPACE = Space(
    "toy.forward", (SMALL, LARGE, HUGE), live=lambda c: c["BLOCK"], shared=lambda c, size: size * c["BLOCK"]
)
KEY = "float32-nchw-2x4"


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a tensor on a pretended GPU on which LARGE is the fastest."""
    monkeypatch.setattr(tuning, "_measured", {})
    monkeypatch.setattr(tuning, "TABLES", tmp_path / "tables")
    monkeypatch.setattr(tuning, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(tuning, "cache_file", lambda device: tmp_path / "cache" / "sm_90.json")
    monkeypatch.setattr(tuning, "shared_limit", lambda device: 1024)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tuning, "time_of", lambda run: {SMALL: 2.0, LARGE: 1.0}[run()])
    monkeypatch.delenv("SEGNEXT_AUTOTUNE", raising=False)
    tuning._table.cache_clear()
    yield SimpleNamespace(is_cuda=True, device="toy", element_size=lambda: 4)
    tuning._table.cache_clear()


def chosen(x: Any, key: str = KEY) -> Config:
    return tuning.tuned(SPACE, key, x, lambda c: c)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget measurements, as a new process does."""
    monkeypatch.setattr(tuning, "_measured", {})


def never(run: Callable[[], Any]) -> float:
    raise AssertionError("measured")


def test_the_first_configuration_where_nothing_is_known(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "time_of", never)
    assert chosen(device) == chosen(torch.zeros(2, 4)) == SMALL
    monkeypatch.setenv("SEGNEXT_AUTOTUNE", "0")
    assert chosen(device) == SMALL


def test_the_table_of_the_architecture(device: Any) -> None:
    tuning.TABLES.mkdir()
    table = {"about": "a comment", SPACE.name: {KEY: LARGE.as_json(), "stale": {"BLOCK": 5}}}
    (tuning.TABLES / "sm_90.json").write_text(json.dumps(table))
    assert chosen(device) == LARGE
    assert chosen(device, "stale") == chosen(device, "unknown") == SMALL


def test_measured_once_and_remembered(device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGNEXT_AUTOTUNE", "1")
    assert chosen(device) == LARGE  # HUGE, which does not fit, has no time to be asked for
    monkeypatch.setattr(tuning, "time_of", never)
    assert chosen(device) == LARGE
    forget(monkeypatch)
    monkeypatch.setenv("SEGNEXT_AUTOTUNE", "0")
    assert chosen(device) == LARGE
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["sm_90.json"]


def test_nothing_is_measured_while_a_graph_is_captured(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGNEXT_AUTOTUNE", "1")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(tuning, "time_of", never)
    assert chosen(device) == SMALL


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"toy.forward": []}', f'{{"toy.forward": {{"{KEY}": 7}}}}']
)
def test_a_broken_file_costs_a_measurement(
    content: str, device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sm_90.json").write_text(content)
    monkeypatch.setenv("SEGNEXT_AUTOTUNE", "1")
    assert chosen(device) == LARGE
    forget(monkeypatch)
    assert chosen(device) == LARGE


def test_processes_add_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "file.json"
    tuning.record(path, "one", KEY, SMALL)
    forget(monkeypatch)
    tuning.record(path, "two", KEY, LARGE)
    assert json.loads(path.read_text()) == {"one": {KEY: SMALL.as_json()}, "two": {KEY: LARGE.as_json()}}


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file where a folder should be")
    tuning.record(tmp_path / "a" / "file.json", "one", KEY, SMALL)
    assert tuning._measured[tmp_path / "a" / "file.json"] == {"one": {KEY: SMALL.as_json()}}


def test_the_setting_is_checked(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGNEXT_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match="^SEGNEXT_AUTOTUNE must be 0 or 1, got 'yes'$"):
        chosen(device)


def test_what_cannot_fit_is_not_tried() -> None:
    assert SPACE.fitting(4, 1024) == [SMALL, LARGE]
    assert SPACE.fitting(4, 64) == [SMALL]
    assert Space("toy", (HUGE,), live=lambda c: 2**20).fitting(4, 64) == [HUGE]  # never none


def test_sizes_are_classed_by_powers_of_two() -> None:
    x = torch.zeros(1, 60, 33, 64)
    assert tuning.size_class(x) == "float32-nchw-1x64x64x64"
    assert tuning.size_class(x.bfloat16().contiguous(memory_format=torch.channels_last), "a").startswith(
        "bfloat16-nhwc-1x64x64x64-a"
    )


def test_every_space_has_a_name_of_its_own_and_fits_the_chip() -> None:
    pytest.importorskip("triton")
    package = Path(str(segnext_kernels.__file__)).parent
    files = [*package.glob("ops/*/triton*.py"), *package.glob("triton/[a-z]*.py")]
    spaces = set()
    for path in files:
        module = importlib.import_module(
            ".".join(("segnext_kernels", *path.relative_to(package).with_suffix("").parts))
        )
        for value in vars(module).values():
            values = value.values() if isinstance(value, dict) else [value]
            spaces |= {space for space in values if isinstance(space, Space)}
    assert len({space.name for space in spaces}) == len(spaces) > 30
    for space in spaces:
        assert space.configs[0] in space.fitting(4, 163 * 1024), (
            f"{space.name}: the default does not fit sm_80"
        )
