"""The campaign without a GPU: its dry run from end to end, and what it does where a stage goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import campaign, results
from bench.roofline import UNKNOWN
from segnext_kernels import _library

ROOT = Path(__file__).resolve().parents[2]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.campaign", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(_library.missing("cpu") is not None, reason="the campaign measures compiled kernels")
def test_dry_run_goes_through_all_stages_and_does_nothing_twice(tmp_path: Path) -> None:
    options = ["--dry-run", "--results", str(tmp_path), "--commit", "abc1234", "--limit", "400"]
    done = run(*options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = tmp_path.glob("*/*.json")
    found = results.read(path)
    assert {name: stage["status"] for name, stage in found.stages.items()} == dict.fromkeys(
        campaign.STAGES, "done"
    ), done.stdout[-3000:]
    assert path.parent.name.startswith("dry-run-") and path.stem.endswith("-abc1234")
    assert found.without_number == {}
    tables = {title: len(rows) for title, rows in found.tables().items()}
    assert tables["models, image to mask"] == tables["training step"] == 1
    assert tables["ops, forward"] == 9
    assert found.ceilings != UNKNOWN and all(row.ratio > 0 for row in found.rows)
    parity = found.stages["parity"]["findings"]
    assert len(parity["ops"]["passed"]) > 10 and not parity["ops"]["failed"]
    assert parity["models"]["t module float32"] < 1e-4 < parity["models"]["t deployed bfloat16"] < 0.1
    assert found.stages["sanitizer"]["findings"]["cpu, none"]["exit status"] == 0
    assert "## stages of the campaign" in done.stdout

    before, start = path.read_text(), time.monotonic()
    again = run(*options)
    assert again.returncode == 0 and again.stdout.count("done before") == len(campaign.STAGES)
    assert json.loads(path.read_text())["rows"] == json.loads(before)["rows"]
    assert time.monotonic() - start < 60


def a_campaign(tmp_path: Path, **options: Any) -> campaign.Campaign:
    made = campaign.Campaign(tmp_path / "toy/2026-01-02-abc.json", dry_run=True, **options)
    made.save()
    return made


def test_a_stage_over_its_limit_is_killed_and_its_workload_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = a_campaign(tmp_path)
    made.starts("ops", "ops, forward: endless")

    def endless(command: list[str], timeout: float, **options: Any) -> Any:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", endless)
    assert campaign.run_stage(made, "ops", [], 0.1) == "was killed at its limit"
    assert made.results.without_number == {"ops, forward: endless": "the stage was killed at its limit"}
    assert not campaign.Campaign(made.path, dry_run=True).starts("ops", "ops, forward: endless")


def test_after_an_error_of_the_device_the_stage_goes_on_in_a_new_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = [campaign.DEVICE_LOST, campaign.DEVICE_LOST, 0]

    def lost(command: list[str], **options: Any) -> Any:
        return subprocess.CompletedProcess(command, statuses.pop(0))

    monkeypatch.setattr(subprocess, "run", lost)
    campaign.run_stage(a_campaign(tmp_path), "ops", [], 60)
    assert statuses == []


def test_out_of_time_starts_nothing(tmp_path: Path) -> None:
    made = a_campaign(tmp_path, deadline=time.monotonic() - 1)
    with pytest.raises(TimeoutError):
        made.starts("ops", "ops, forward: one")


def test_options_that_make_no_sense_are_one_line() -> None:
    done = run("--stages", "parity,poetry", "--dry-run")
    assert done.returncode == 2 and "--stages: poetry is none of build, parity" in done.stderr


def test_stages_fit_nine_minutes() -> None:
    assert sum(campaign.STAGES.values()) <= 540
