"""Collects the rows of a session of `pytest bench/ --benchmark-only`, stores the JSON and prints the tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import machine, report, results, roofline
from bench.comparison import Comparison

ROWS = pytest.StashKey[list[results.Row]]()
WITHOUT_NUMBER = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--bench-seconds", type=float, default=1.0, help="time for the rounds of one comparison")
    group.addoption(
        "--bench-all",
        action="store_true",
        help="S and L too, and torch.compile: twenty minutes instead of ten",
    )
    group.addoption("--bench-without", action="append", default=[], metavar="PEER", help="such as OpenVINO")
    group.addoption("--bench-results", type=Path, default=results.FOLDER, help="folder for the JSON files")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.stash[WITHOUT_NUMBER] = {}
    config.option.benchmark_quiet = True  # its table has no peers; ours has


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def compare(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Comparison:
    """Check, time and record one workload; see `Comparison.__call__`."""
    config = request.config
    seconds = config.getoption("--bench-seconds")
    left_out = dict.fromkeys(config.getoption("--bench-without"), "left out by --bench-without")
    if not config.getoption("--bench-all"):
        left_out["torch.compile"] = "left out; --bench-all includes it"
    return Comparison(benchmark, seconds, config.stash[ROWS], config.stash[WITHOUT_NUMBER], left_out)


@pytest.fixture
def needs_all(request: pytest.FixtureRequest) -> None:
    """Skip a workload that only --bench-all measures."""
    if not request.config.getoption("--bench-all"):
        pytest.skip("--bench-all measures it")


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Keep why a workload has no number: a wrong output, an error, a skip."""
    if call.excinfo is not None:
        reason = str(call.excinfo.value).partition("\n")[0]
        item.config.stash[WITHOUT_NUMBER][item.name] = f"{call.excinfo.typename}: {reason}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    run = results.Results(machine.describe(), roofline.measure(), rows, config.stash[WITHOUT_NUMBER])
    path = results.write(run, config.getoption("--bench-results"))
    terminalreporter.section("benchmarks")
    terminalreporter.write_line(report.render(run))
    terminalreporter.write_line(f"\nstored in {path}; `python -m bench.report` draws the plots")
