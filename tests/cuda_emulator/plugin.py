"""Runs the tests that take the fixture `emulator` in processes of their own, under AddressSanitizer.

The sanitizer must be loaded before Python. So the first of these tests in a file starts a second pytest on all of the
file that were selected; each then reports what happened to it there. A test that ends that process (the sanitizer does)
fails with the report, and the others run in a new one. Files are run apart because pytest-xdist gives each worker files
of its own, while every worker knows of all tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import summary
from tests.cuda_emulator import build
from tests.cuda_emulator.emulation import SCHEDULES, Emulator, load_module

INSIDE = "SEGNEXT_EMULATED_LIBRARY"
SELECTED = "SEGNEXT_EMULATED_TESTS"
RESULTS = "SEGNEXT_EMULATED_RESULTS"
MOST_PROCESSES = 6
OPTIONS = {
    "detect_leaks": 0,  # torch and Python never free some of their memory
    "detect_stack_use_after_return": 0,  # the sanitizer's fake stacks would be switched with the fibres
    "redzone": 2048,  # the largest one, so that a step past the end meets it and no neighbour, alive or freed
    "max_malloc_fill_size": 1 << 30,  # torch.empty gives NaN, so that unwritten elements are seen
    "malloc_fill_byte": 255,
}
PROVEN = f"emulated cases of CUDA kernels, in {len(SCHEDULES)} schedules under AddressSanitizer and UBSan"
_results: dict[str, dict[str, Any]] = {}


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator | None]:
    """Let CUDA launchers run on the CPU: `native._C` is the emulated module."""
    if INSIDE not in os.environ:
        yield None  # the test's body runs in the other process
        return
    from segnext_kernels import native

    emulator = Emulator(load_module(os.environ[INSIDE]))
    monkeypatch.setattr(native, "_C", emulator.library(native._C))
    yield emulator


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Report, outside of the other process, what became of the test there."""
    if "emulator" not in pyfuncitem.fixturenames or INSIDE in os.environ:
        return None
    if build.preloaded() is None:
        pytest.skip("g++ with AddressSanitizer is not installed")
    if pyfuncitem.nodeid not in _results:
        file = pyfuncitem.path
        items = [item for item in pyfuncitem.session.items if item.path == file]
        names = [item.nodeid for item in items if "emulator" in getattr(item, "fixturenames", ())]
        try:
            _results.update(run(build.library(), names, pyfuncitem.config))
        except AssertionError as error:  # it does not compile, which is not tried again for every test
            _results.update({name: {"outcome": "failed", "text": str(error)} for name in names})
    result = _results[pyfuncitem.nodeid]
    if result["outcome"] == "skipped":
        pytest.skip(result["text"])
    if result["outcome"] != "passed":
        pytest.fail(result["text"], pytrace=False)
    summary.count(PROVEN)
    return True


def sanitized_environment(library: Path) -> dict[str, str]:
    """Return the environment of a process in which the emulated library can be loaded."""
    return {
        **os.environ,
        "LD_PRELOAD": str(build.preloaded()),
        "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in OPTIONS.items()),
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
        INSIDE: str(library),
    }


def run(library: Path, selected: Sequence[str], config: pytest.Config) -> dict[str, dict[str, Any]]:
    """Run tests on this emulated library; map each node id to outcome and text."""
    file = Path(selected[0].split("::")[0])
    folder = build.FOLDER / f"run{os.getpid()}-{file.stem}"
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for _ in range(MOST_PROCESSES):
        left = [name for name in selected if name not in results]
        if not left:
            break
        text = _run_process(folder, library, left, results)
        started = [name for name, result in results.items() if result["outcome"] == "started"]
        for name in started:
            results[name] = {"outcome": "failed", "text": text}
        if not started and not any(name in results for name in left):
            results.update({name: {"outcome": "failed", "text": text} for name in left})
    if all(result["outcome"] != "failed" for result in results.values()):
        shutil.rmtree(folder)  # only the outputs of failures stay
    never = {"outcome": "failed", "text": f"not run: {MOST_PROCESSES} processes were ended by earlier tests"}
    return {name: results.get(name, never) for name in selected}


def _run_process(folder: Path, library: Path, selected: Sequence[str], results: dict[str, Any]) -> str:
    (folder / "selected").write_text("\n".join(selected))
    (folder / "results").write_text("")
    environment = {
        **sanitized_environment(library),
        SELECTED: str(folder / "selected"),
        RESULTS: str(folder / "results"),
    }
    files = sorted({name.split("::")[0] for name in selected})
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.cuda_emulator.inside",
    ]
    with (folder / "output").open("w") as output:
        done = subprocess.run(
            [*command, *files], cwd=build.ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    for line in (folder / "results").read_text().splitlines():
        result = json.loads(line)
        results[result.pop("name")] = result
    # the sanitizer's report begins by saying what happened and where
    text = (folder / "output").read_text(errors="replace")
    begin = max(text.find("==ERROR"), text.find("runtime error:"), 0)
    return f"the process ended with {done.returncode}\n" + text[max(begin - 200, 0) :][:6000]
