"""Runs the campaign without a GPU: all runs from end to end, with every kind of fault, killed and started again."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.campaign import cases, checks, jobs, models, plan, prebuilt
from bench.campaign.record import Record
from bench.roofline import UNKNOWN
from segnext_kernels import native

ROOT = Path(__file__).resolve().parents[2]
needs_kernels = pytest.mark.skipif(
    native.missing("cpu") is not None, reason="the campaign measures compiled kernels"
)
PLANTED = {
    "smoke: dwconv_gelu forward triton": "segv",
    "smoke: dwconv_gelu backward triton": "hang",
    "smoke: upsample_argmax forward triton": "triton",
    "times: dwconv_gelu backward cuda c8-h9w7": "capture",
}


def command(folder: Path, *options: str) -> list[str]:
    own = ["--dry-run", "--results", str(folder), "--commit", "abc1234"]
    return [sys.executable, "-m", "bench.campaign", *own, *options]


def run(folder: Path, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *options), cwd=ROOT, capture_output=True, text=True, check=False, **more
    )


def the_file(folder: Path) -> results.Results:
    (path,) = folder.glob("*/*.json")
    assert path.parent.name.startswith("dry-run-") and path.stem.endswith("-abc1234")
    return results.read(path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run the first run with faults, kill it twice, let it end; return its folder and what that held at the kill."""
    folder = tmp_path_factory.mktemp("campaign")
    options = ["--first", *(word for job, fault in PLANTED.items() for word in ("--plant", f"{job}={fault}"))]
    smoke = [*options, "--phases", "probe,smoke", "--limit", "20"]  # what the hanging job costs
    for seconds in (9, 14):
        process = subprocess.Popen(command(folder, *smoke), cwd=ROOT, stdout=subprocess.DEVNULL)
        while not any(folder.glob("*/*.json")) and process.poll() is None:  # a busy machine imports for long
            time.sleep(0.1)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = the_file(folder).stages  # readable, whenever it was killed
    for arguments in (smoke, options):
        done = run(folder, *arguments)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)
    return folder, kept


@pytest.mark.proof
@needs_kernels
def test_each_fault_costs_only_itself_and_a_kill_costs_nothing(first: tuple[Path, dict[str, Any]]) -> None:
    folder, kept = first
    found = the_file(folder)
    for phase, record in kept.items():
        for job, finding in record["findings"].items():
            assert found.stages[phase]["findings"][job] == finding, "what was known is not measured again"

    reasons = found.without_number
    assert reasons == {
        "smoke: dwconv_gelu forward triton": "ended its process (SIGSEGV)",
        "smoke: dwconv_gelu backward triton": "did not come to an end",
        "smoke: upsample_argmax forward triton": reasons["smoke: upsample_argmax forward triton"],
    }
    assert reasons["smoke: upsample_argmax forward triton"].startswith("CompilationError: ")
    assert set(found.stages) == {phase.name for phase in plan.FIRST}
    for name, record in found.stages.items():
        assert record["status"] == ("4 of 7 ok, 3 not" if name == "smoke" else record["status"]), record
        assert name == "smoke" or "not" not in record["status"] and "no time" not in record["status"], record
    forward, both = found.tables()["ops, forward"], found.tables()["ops, forward + backward"]
    assert len(forward) == 2 and len(both) == len(found.tables()["models, image to mask"]) == 1
    assert not any("without a graph" in row.notes for row in forward)
    assert set(both[0].notes["without a graph"]) == {"ours", "eager channels_last"}
    assert found.ceilings != UNKNOWN and all(row.ratio > 0 for row in found.rows)
    assert found.stages["models"]["findings"]["t 1 64 96 19"]["error of logits"] < 0.1
    assert len(list(folder.glob("*/*"))) == 2  # results and log


@pytest.mark.proof
@needs_kernels
def test_the_second_run_goes_on_in_the_same_file(first: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = first
    before = the_file(folder)
    done = run(folder, "--second")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = the_file(folder)
    assert found.without_number == before.without_number
    assert found.rows[: len(before.rows)] == before.rows
    assert all(found.stages[phase.name]["findings"] for phase in plan.SECOND)
    assert len(found.stages["profile"]["findings"]) == plan.SLOWEST
    assert len(found.tables()["training step"]) == 1


@pytest.mark.proof
@needs_kernels
def test_the_third_run_takes_checks_to_their_ends(first: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = first
    done = run(folder, "--third", "--again")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = the_file(folder)
    for phase in plan.THIRD:
        findings = found.stages[phase.name]["findings"]
        assert set(findings) == set(phase.jobs(None, True)) and all(each["ok"] for each in findings.values())
    assert "passed" in found.stages["contract"]["findings"]["dwconv_gelu cuda nhwc"]["says"]


@pytest.mark.proof
@needs_kernels
def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    def no_room() -> None:  # no file may grow beyond this, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    done = run(tmp_path, "--first", "--phases", "smoke", preexec_fn=no_room)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "could not be written" in done.stderr and "not stored:" in done.stdout
    assert done.stdout.count("smoke: ") >= 7 and "7 of 7 ok" in done.stdout
    assert not list(tmp_path.glob("*/*.tmp"))


@needs_kernels
def test_a_phase_without_its_jobs_says_what_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path, "--first", "--phases", "times")
    assert done.returncode == 1
    assert "times takes its jobs from the results of smoke; " in done.stderr
    assert "run smoke first, or both" in done.stderr


def a_record(tmp_path: Path) -> Record:
    return Record(tmp_path / "toy/2026-01-02-abc.json", {"date": "2026-01-02"})


def test_out_of_time_starts_nothing_and_says_so(tmp_path: Path) -> None:
    record = a_record(tmp_path)
    jobs.run(
        record,
        "smoke",
        ["self-check"],
        seconds=9,
        together=1,
        apart=True,
        deadline=time.monotonic() - 1,
        settings=jobs.Settings(dry_run=True),
    )
    assert record.phase("smoke")["status"] == "0 of 1 ok, no time for 1"
    assert json.loads(record.path.read_text())["stages"]["smoke"]["findings"] == {}


def test_a_job_that_time_cut_short_is_run_again(tmp_path: Path) -> None:
    record = a_record(tmp_path)
    assert not record.is_finished("contract", "toy cuda nhwc")
    found = checks.tests(["--collect-only", "tests/contract"], seconds=0.01)
    assert found["cut"] and found["says"] == "0 passed, 0 failed, not finished in its time"
    record.keep("contract", "toy cuda nhwc", found)
    assert record.passed("contract", "toy cuda nhwc") and not record.is_finished("contract", "toy cuda nhwc")
    record.keep("contract", "toy cuda nhwc", {"ok": True, "says": "3 passed"})
    assert record.is_finished("contract", "toy cuda nhwc")


def test_a_cut_run_of_tests_tells_what_it_saw(tmp_path: Path) -> None:
    """The marks fill a line and begin another; then a test hangs."""
    text = "import time, pytest\n@pytest.mark.parametrize('i', range(100))\ndef test(i):\n"
    path = tmp_path / "test_slow.py"
    path.write_text(f"{text}    assert i != 3\n    time.sleep(99 if i == 90 else 0)\n")
    found = checks.tests([str(path)], seconds=9)
    assert (found["ok"], found["cut"]) == (False, False)
    assert found["says"] == "89 passed, 1 failed, not finished in its time"


def test_a_later_result_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    record = a_record(tmp_path)
    timing = {"median": 1.0, "low": 1.0, "high": 1.0, "rounds": 5}
    row = {"table": "ops, forward", "name": "toy", "times": {"ours": timing}, "beside": {}}
    record.keep("times", "toy", {"ok": False, "says": "hung"})
    for median in (1.0, 2.0):
        record.keep(
            "times", "toy", {"ok": True, "rows": [{**row, "times": {"ours": {**timing, "median": median}}}]}
        )
    found = results.read(record.path)
    assert [r.times["ours"].median for r in found.rows] == [2.0] and found.without_number == {}


def test_a_library_built_beforehand_must_fit(tmp_path: Path) -> None:
    assert "must hold _C" in str(prebuilt.missing(tmp_path))
    (tmp_path / prebuilt.LIBRARY).write_bytes(b"")
    assert "_build.json" in str(prebuilt.missing(tmp_path))
    for record, reason in (
        ({"cuda": None}, "without CUDA"),
        ({"cuda": {"nvcc": "13.0"}, "sources": "0"}, "other sources"),
        ({"cuda": {"nvcc": "13.0"}, "sources": prebuilt.digest()}, None),
    ):
        (tmp_path / "_build.json").write_text(json.dumps(record))
        found = prebuilt.missing(tmp_path)
        assert found is None if reason is None else reason in str(found)


def test_every_kernel_for_a_gpu_has_a_job() -> None:
    named = {str(kernel) for kernel in cases.kernels(dry_run=False)}
    assert {"msca_conv forward cuda", "nmf2d backward triton", "msca_block forward auto"} <= named
    for kernel in cases.kernels(dry_run=False):
        for shape in cases.shapes(kernel.spec, dry_run=False):
            assert " " not in shape and cases.sample_of(kernel.spec, shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--first", "--dry-run", "--phases", "smoke,poetry"], "--phases: poetry is none of probe, smoke"),
        (["--first", "--plant", "x=segv"], "--plant: only in a dry run"),
        (
            ["--first", "--dry-run", "--plant", "smoke: poetry=segv"],
            "'smoke: poetry' is no job of this run; they are",
        ),
        (
            ["--first", "--dry-run", "--plant", "probe: device=fire"],
            "'fire' is none of segv, hang, triton, capture",
        ),
        ([], "one of the arguments --first --second --third is required"),
    ],
)
def test_options_that_make_no_sense_are_one_line(options: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.campaign", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and message in done.stderr


def test_the_first_run_fits_a_call_of_ten_minutes() -> None:
    assert sum(phase.seconds for phase in plan.FIRST) == 480
    assert sum(phase.seconds for phase in plan.SECOND) == 290


_JOB = """
import pathlib, sys, time
from bench.campaign.turns import Turns
number, here = int(sys.argv[1]), pathlib.Path(sys.argv[2])
with Turns(f"job {number}") as turn:
    (here / str(number)).touch()
    while len(list(here.iterdir())) < 3:  # all have begun
        time.sleep(0.01)
    time.sleep(0.3 * number)
    print(time.time())
    turn.wait()
    print(time.time())
    time.sleep(0.2)
    print(time.time())
"""


def test_jobs_prepare_together_and_measure_in_turns(tmp_path: Path) -> None:
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", _JOB, str(number), str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    times = [[float(line) for line in job.communicate(timeout=60)[0].split()] for job in jobs]
    prepared, begun, ended = (sorted(column) for column in zip(*times, strict=True))
    assert prepared[-1] <= begun[0], "one measures while another prepares"
    assert ended[0] <= begun[1] and ended[1] <= begun[2], "two measure at once"


_COMPILE = """
import pathlib, sys, torch
from bench.campaign import precompiled
from segnext_kernels.backend import KERNELS
from segnext_kernels.spec import all_specs
precompiled.PLACE = pathlib.Path(sys.argv[1])
args = all_specs()["channel_norm"].model_shapes[0].make(torch.bfloat16, "meta", torch.channels_last)
run = lambda: KERNELS["channel_norm"]["triton"].run(*args)
print(precompiled.compile_launches(run, (9, 0)), precompiled.compile_launches(run, (9, 0)))
"""


def test_tritons_kernels_are_compiled_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    first, again = map(int, done.stdout.split())
    assert first == len(list(tmp_path.rglob("channel_norm_kernel.cubin"))) > 0 and again == 0


def test_kernels_of_one_template_stay_apart_in_a_profile() -> None:
    """Their names were cut to 80 characters, so that three shapes of conv_ffn were one line with the time of one."""
    shapes = [f"Shape<{width}, {width}, 32, 4, 2, 1, 3, 2, 3>" for width in (32, 64, 160)]
    keys = [
        f"void segnext::(anonymous namespace)::kernel<bf16, segnext::{shape} >(segnext::Params)"
        for shape in shapes
    ]
    assert [models.short_name(key) for key in keys] == [f"kernel<bf16, {shape} >" for shape in shapes]
