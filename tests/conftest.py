"""Seeds the generators before every test, orders and marks the tests, and prints at the end what they proved."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import summary

# The accuracy rule compares with PyTorch's true float32, and reruns must agree to the last bit.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True

# Tests send these signals to themselves and to their children. Under nohup, or in the background of a shell, they would
# be ignored.
for _signal, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, _handler)

# Each takes minutes in one process: begun last, one would run alone while the other cores wait. `make test` has little
# of them.
LONG = ("test_interpreter.py", "test_machine_code.py")
# Folders of cheap tests come first, so that a failing test is seen early; tests in no folder come before them. The
# kernels' proofs come last: they take the longest, and `--minutes` cuts the end.
ROOMS = (
    *(
        "docs",
        "oracle",
        "models",
        "weights",
        "data",
        "drawing",
        "measure",
        "deployment",
        "predict",
        "evaluation",
    ),
    *(
        "training",
        "tools",
        "cli",
        "examples",
        "serve",
        "fuzz",
        "runtime",
        "bench",
        "packaging",
        "contract",
        "kernels",
    ),
)
BEGUN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "random inputs, tests/fuzz")
    group.addoption("--fuzz-seed", type=int, default=0, help="seed of the random inputs")
    group.addoption(
        "--fuzz-share",
        type=float,
        default=0.02,
        help="share of each fuzzer's full number of inputs; `make fuzz` tries all of them (1)",
    )
    parser.addoption(
        "--minutes",
        type=float,
        help="skip the tests that would begin later than this; `make proof MINUTES=30`",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test, before anything is built for it, once the minutes of `--minutes` are over."""
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - BEGUN > 60 * minutes:
        pytest.skip(f"the {minutes:g} minutes of --minutes were over")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark emulated tests as proof, and sort the tests: the long files, then by folder in the order of `ROOMS`."""
    for item in items:
        if "emulator" in getattr(item, "fixturenames", ()):
            item.add_marker("proof")
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    if item.path.name in LONG:
        return -2
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    return ROOMS.index(room) if room in ROOMS else -1


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Pass what this process proved to the process that prints, if there are several."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["proven"] = dict(summary.COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a worker process proved; pytest-xdist calls this when the process has ended."""
    summary.COUNTS.update(getattr(node, "workeroutput", {}).get("proven", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.stats.get("passed", ())
    contract = sum(report.nodeid.startswith("tests/contract/") for report in passed)
    proven = {"cases of the contract of all ops": contract, **summary.COUNTS}
    lines = [f"{number:7,} {what}" for what, number in proven.items() if number]
    if lines:
        terminalreporter.section("proven")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads after a test that calls torch.set_num_threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
