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
    assert found.stages["sanitizer"]["findings"]["sanitizer: cpu, none"]["exit status"] == 0
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


def test_a_workload_that_took_the_whole_limit_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = a_campaign(tmp_path)
    made.starts("ops", "ops, forward: endless")
    monkeypatch.setattr(campaign, "_status", lambda command, limit: time.sleep(0.1))
    assert campaign.run_stage(made, "ops", [], 0.1) == "was killed at its limit"
    assert made.results.without_number == {"ops, forward: endless": "the stage was killed at its limit"}
    assert not campaign.Campaign(made.path, dry_run=True).starts("ops", "ops, forward: endless")


def test_a_workload_that_began_late_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = a_campaign(tmp_path)
    made.starts("ops", "ops, forward: late")
    monkeypatch.setattr(campaign, "_status", lambda command, limit: None)
    campaign.run_stage(made, "ops", [], 60)
    assert made.results.without_number == {}
    assert campaign.Campaign(made.path, dry_run=True).starts("ops", "ops, forward: late")


def test_what_a_stage_started_dies_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    command = ["bash", "-c", f"(sleep 1.5; touch {mark}) & wait"]
    assert campaign._status(command, 0.2) is None
    time.sleep(1.8)
    assert not mark.exists()
    assert campaign._status(["bash", "-c", "exit 3"], 10) == 3


def test_after_an_error_of_the_device_the_stage_goes_on_in_a_new_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = [campaign.DEVICE_LOST, campaign.DEVICE_LOST, 0]
    monkeypatch.setattr(campaign, "_status", lambda command, limit: statuses.pop(0))
    campaign.run_stage(a_campaign(tmp_path), "ops", [], 60)
    assert statuses == []


def test_an_error_of_the_device_ends_the_process_with_its_status(tmp_path: Path) -> None:
    made = a_campaign(tmp_path)
    lose = f"""
import runpy, sys
from bench import campaign, campaign_times
def ops(made): raise campaign.DeviceLost
campaign_times.ops = ops
sys.argv = ["campaign", "--child", "ops", "--limit", "9", "--dry-run", "--file", "{made.path}"]
runpy.run_module("bench.campaign", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", lose], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == campaign.DEVICE_LOST, done.stderr[-2000:]


def test_out_of_time_starts_nothing(tmp_path: Path) -> None:
    made = a_campaign(tmp_path, deadline=time.monotonic() - 1)
    with pytest.raises(TimeoutError):
        made.starts("ops", "ops, forward: one")


def test_options_that_make_no_sense_are_one_line() -> None:
    done = run("--stages", "parity,poetry", "--dry-run")
    assert done.returncode == 2 and "--stages: poetry is none of build, parity" in done.stderr


def test_stages_fit_nine_minutes() -> None:
    assert sum(campaign.STAGES.values()) <= 540
