"""Runs the selected tests in the process that `plugin` starts, and writes what becomes of each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cuda_emulator.plugin import RESULTS, SELECTED


def _write(name: str, outcome: str, text: str = "") -> None:
    with Path(os.environ[RESULTS]).open("a") as file:
        file.write(json.dumps({"name": name, "outcome": outcome, "text": text}) + "\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the order of the process that selected them."""
    by_name = {item.nodeid: item for item in items}
    items[:] = [by_name[name] for name in Path(os.environ[SELECTED]).read_text().splitlines()]


def pytest_runtest_logstart(nodeid: str) -> None:
    """Note that a test started; a name that stays at "started" ended the process."""
    _write(nodeid, "started")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Report the call, or whatever went wrong before and after it."""
    if report.when == "call" or not report.passed:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        _write(report.nodeid, report.outcome, text.removeprefix("Skipped: "))
