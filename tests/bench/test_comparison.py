"""Runs a benchmark session from end to end, on workloads of microseconds: checks, turns, files, tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import results, roofline
from bench.peers import PEERS
from oracle.inputs import in_layout

ROOT = Path(__file__).resolve().parents[2]
SESSION = """
import torch

from bench.peers import PEERS
from segnext.measure.runtimes import Unavailable

calls = []


def variant(name, value=1.0):
    def run():
        calls.append(name)
        return torch.tensor(value)

    return run


def gate(name, output):
    assert output == 1.0, f"{name} gives {output}\\nand more"


def build(value=1.0):
    return lambda layout: (variant(str(layout), value), ())


def test_turns(compare):
    row = compare("toys", "turns", variant("ours"), build(), gate, beside={"more": variant("more")})
    one_round = [*2 * ["torch.contiguous_format"], *2 * ["torch.channels_last"], *2 * ["more"], *2 * ["ours"]]
    rounds = row.times["ours"].rounds
    assert calls[8:] == rounds * one_round  # after the gate and the first look at how long it takes
    assert rounds == row.times["eager"].rounds == row.beside["more"].rounds >= 7
    assert list(row.times) == ["ours", "eager", "eager channels_last"]


def missing(build):
    raise Unavailable("not installed")


def test_peers_that_may_fail(compare):
    peers = {"eager": PEERS["eager"], "absent": missing, "wrong": lambda build: variant("wrong", 5.0)}
    peers["unwanted"] = lambda build: 1 / 0
    row = compare("toys", "some peers", variant("ours"), build(), gate, peers=peers)
    assert list(row.times) == ["ours", "eager"]


def test_no_peer(compare):
    compare("toys", "no peer", variant("ours"), build(), gate, peers={"absent": missing})


def test_wrong_ours(compare):
    compare("toys", "wrong", variant("ours", 2.0), build(), gate)


def test_wrong_peer(compare):
    compare("toys", "wrong peer", variant("ours"), build(3.0), gate)
"""


def run_session(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_toys.py").write_text(SESSION)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "bench.conftest",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
    ]
    command += [
        f"--rootdir={folder}",
        f"--bench-results={folder}",
        "--bench-seconds=0.01",
        "--bench-without=unwanted",
        *options,
        str(folder),
    ]
    # not one of the processes that run these tests beside each other, in which pytest-benchmark measures nothing
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_only_what_passes_the_gate_gets_a_number(tmp_path: Path) -> None:
    done = run_session(tmp_path, "--benchmark-only")
    assert "3 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    (path,) = tmp_path.glob("*/*.json")
    run = results.read(path)
    assert [row.name for row in run.rows] == ["turns", "some peers"]
    assert run.without_number["some peers, toys: absent"] == "not installed"
    assert run.without_number["some peers, toys: wrong"] == "wrong gives 5.0"
    assert run.without_number["some peers, toys: unwanted"] == "left out by --bench-without"
    assert run.without_number["test_no_peer"] == "Unavailable: no peer: no peer passed"
    assert run.without_number["test_wrong_ours"] == "AssertionError: ours gives 2.0"
    assert run.without_number["test_wrong_peer"] == "AssertionError: eager gives 3.0"
    assert run.machine["threads"] == 1 and run.machine["slug"] == path.parent.name
    assert run.ceilings.gemm > 0 and all(rate > 0 for _, rate in run.ceilings.copies)
    assert "| turns " in done.stdout and path.name in done.stdout


def test_disabled_runs_the_gates_alone(tmp_path: Path) -> None:
    done = run_session(
        tmp_path, "--benchmark-disable", "--deselect", "test_toys.py::test_turns", "-k", "wrong"
    )
    assert "2 failed, 3 deselected" in done.stdout, done.stdout + done.stderr
    assert not list(tmp_path.glob("*/*.json"))


def test_layouts_of_the_peers() -> None:
    image, other = torch.randn(1, 2, 3, 4), torch.randn(5)
    seen = []
    for peer in PEERS.values():
        run = peer(
            lambda layout: (lambda x: seen.append(x["a"][0]), (in_layout({"a": [image, other]}, layout),))
        )
        run()
    assert seen[0].is_contiguous() and seen[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seen[0], seen[1])


def test_flops_are_counted_as_torch_does() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert roofline.counted_flops(lambda: a @ b) == 2 * 3 * 4 * 5


def test_fma_ceiling_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = roofline.measure_fma()
    if measured is None:
        pytest.skip("no C++ compiler")
    assert 0.5 < measured < 100_000, "GFLOP/s"
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", "")
    assert roofline.measure_fma() is None
