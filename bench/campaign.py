"""All measurements of a GPU by one command: `python -m bench.campaign`.

Stages, each in a process of its own with a time limit of its own: what one breaks, the others keep. Everything goes
into one file, bench/results/<device>/<date>-<commit>.json, after each workload; the same command again leaves out
what is there, so that a campaign may be spread over several sittings on the machine. No workload gets a number
before its result passed the gate, in the same process.

Needs no network and no installation: PyTorch, Triton, nvcc, ninja and pybind11 as the machine has them, and this
checkout. `--dry-run` goes through all stages on the CPU with tiny shapes: proof that the campaign itself works.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench import machine, report, results
from bench.roofline import UNKNOWN
from segnext_kernels import _library

ROOT = Path(__file__).resolve().parent.parent
# Stage -> seconds that it may take; together under nine minutes. The order is that of trust: no time before parity.
STAGES = {
    "build": 150,
    "parity": 110,
    "sanitizer": 60,
    "ceilings": 20,
    "ops": 80,
    "models": 80,
    "training": 30,
}
# Of the stages that time: the tables that they fill.
TABLES = {
    "ops": ("ops, forward", "ops, forward + backward"),
    "models": ("models, image to mask",),
    "training": ("training step",),
}
GPU_BACKENDS = ("cuda", "triton")
GRACE = 10  # seconds more for a stage that ends by itself, between two workloads
DEVICE_LOST = 17  # exit status: after an error of the device nothing works in that process any more


class DeviceLost(RuntimeError):
    """An illegal access or the like; the workload is recorded, the rest needs a new process."""


def check_device(device: torch.device, workload: str) -> None:
    """Raise `DeviceLost` where the GPU does nothing any more for this process."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize()
        except Exception as error:
            raise DeviceLost(workload) from error


class Campaign:
    """One campaign's file: read, added to, written after every change.

    Args:
        path: of the result file; made where there is none.
        dry_run: on the CPU, tiny.
        full: more shapes, dtypes and peers.
        deadline: when to start no further workload, by `time.monotonic`.
    """

    def __init__(
        self, path: Path, dry_run: bool = False, full: bool = False, deadline: float = float("inf")
    ) -> None:
        self.path, self.dry_run, self.full, self.deadline = path, dry_run, full, deadline
        self.device = torch.device("cpu" if dry_run else "cuda")
        if path.exists():
            self.results = results.read(path)
        else:
            self.results = results.Results(machine.describe(), UNKNOWN, [])

    def save(self) -> None:
        """Write the file."""
        results.save(self.results, self.path)

    def stage(self, name: str) -> dict[str, Any]:
        """A stage's record, to be changed in place: status, seconds, findings, the workload that runs."""
        return self.results.stages.setdefault(name, {"status": "not run", "seconds": 0.0, "findings": {}})

    def starts(self, stage: str, workload: str) -> bool:
        """Whether a workload is to be measured: it has no number yet, and there is time. Notes that it runs."""
        known = {f"{row.table}: {row.name}" for row in self.results.rows} | self.results.without_number.keys()
        if workload in known:
            return False
        if time.monotonic() > self.deadline:
            raise TimeoutError
        self.runs(stage, workload)
        return True

    def runs(self, stage: str, workload: str) -> None:
        """Note what runs, for the one who finds this process dead."""
        self.stage(stage).update(running=workload, since=time.time())
        self.save()

    def add(self, row: results.Row) -> None:
        """Keep a row."""
        self.results.rows.append(row)
        self.save()

    def refuse(self, workload: str, reason: BaseException | str) -> None:
        """Keep why a workload has no number."""
        text = str(reason).strip().partition("\n")[0]
        kind = f"{type(reason).__name__}: " if isinstance(reason, BaseException) else ""
        self.results.without_number[workload] = f"{kind}{text}"[:300]
        self.save()


def run_stage(campaign: Campaign, name: str, arguments: Sequence[str], limit: float) -> str:
    """Run one stage in a process of its own, and in another one after an error of the device; returns its status."""
    start = time.monotonic()
    status: int | None = DEVICE_LOST
    while status == DEVICE_LOST and (left := limit - (time.monotonic() - start)) > 0:
        command = [sys.executable, "-m", "bench.campaign", "--child", name, "--limit", str(left), *arguments]
        status = _status(command, left + GRACE)
    failed = (
        "was killed at its limit" if status is None else f"failed with exit status {status}" if status else ""
    )
    campaign.results = results.read(campaign.path)  # as the child left it
    record = campaign.stage(name)
    running, since = record.pop("running", None), record.pop("since", 0.0)
    if failed:
        record["status"] = failed
        # it would end the same way again; but what only began late gets another chance
        if running and (status is not None or time.time() - since > limit / 2):
            campaign.refuse(running, f"the stage {failed}")
    record["seconds"] = round(record["seconds"] + time.monotonic() - start, 1)
    campaign.save()
    return str(record["status"])


def _status(command: Sequence[str], limit: float) -> int | None:
    """Exit status; None where it ran past the limit and was killed with all that it had started."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def run_child(campaign: Campaign, name: str) -> None:
    """What a stage's own process does."""
    from bench import campaign_checks, campaign_times

    module = campaign_times if name in TABLES else campaign_checks
    # What is float32 shall be float32: of the oracles and of the peers.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    record = campaign.stage(name)
    campaign.save()
    try:
        getattr(module, name)(campaign)
        record["status"] = "done"
    except TimeoutError:
        record["status"] = "ran out of time"
    except DeviceLost:
        campaign.save()
        sys.exit(DEVICE_LOST)
    record.pop("running", None)
    record.pop("since", None)
    campaign.save()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m bench.campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--stages", default=",".join(STAGES), help="some of them, by commas; default: %(default)s"
    )
    made.add_argument("--full", action="store_true", help="all shapes, dtypes and peers: hours")
    made.add_argument(
        "--limit", type=float, help="seconds for each stage, instead of its own (all: nine minutes)"
    )
    made.add_argument("--again", action="store_true", help="forget what the stages found before")
    made.add_argument(
        "--dry-run", action="store_true", help="on the CPU with tiny shapes; proves the campaign"
    )
    made.add_argument("--results", type=Path, default=results.FOLDER, help="folder; default: bench/results")
    made.add_argument("--commit", help="what is measured, where the checkout came without its .git")
    made.add_argument("--child", choices=STAGES, help=argparse.SUPPRESS)
    made.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.campaign`."""
    options = parser().parse_args(arguments)
    if options.child:
        campaign = Campaign(options.file, options.dry_run, options.full, time.monotonic() + options.limit)
        run_child(campaign, options.child)
        return
    stages = options.stages.split(",")
    if unknown := [name for name in stages if name not in STAGES]:
        parser().error(f"--stages: {', '.join(unknown)} is none of {', '.join(STAGES)}")
    if not options.dry_run and not torch.cuda.is_available():
        parser().exit(
            1, "bench.campaign: torch sees no GPU here; --dry-run goes through the stages on the CPU\n"
        )
    described = machine.describe()
    described["commit"] = options.commit or described["commit"]
    if described["commit"] == "nocommit":
        parser().error("--commit: needed here, where git does not know what is measured")
    if options.dry_run:
        described["slug"] = f"dry-run-{described['slug']}"
    campaign = Campaign(_file_of(described, options.results), options.dry_run, options.full)
    campaign.results.machine = described
    _forget(campaign, stages if options.again else [])
    campaign.save()
    own = [
        "--file",
        str(campaign.path),
        *(f"--{flag}" for flag in ("dry-run", "full") if _is_set(options, flag)),
    ]
    for name in stages:
        if campaign.stage(name)["status"] == "done" and not _must_build(name, options.dry_run):
            print(f"{name}: done before", flush=True)
            continue
        limit = options.limit or STAGES[name]
        print(f"{name}: up to {limit:.0f} s", flush=True)
        status = run_stage(campaign, name, own, limit)
        print(f"{name}: {status}, {campaign.stage(name)['seconds']} s", flush=True)
    print(f"\n{report.render(campaign.results)}\n\nstored in {campaign.path}")


def _must_build(stage: str, dry_run: bool) -> bool:
    """Built at an earlier sitting, perhaps on another machine; here it is missing."""
    return stage == "build" and not dry_run and _library.missing("cuda") is not None


def _is_set(options: argparse.Namespace, flag: str) -> bool:
    return bool(getattr(options, flag.replace("-", "_")))


def _file_of(described: dict[str, Any], folder: Path) -> Path:
    """An earlier sitting's file for this device and commit, or a new one of today."""
    path = results.path_of(described, folder)
    _, _, commit = path.stem.rpartition("-")
    return max(path.parent.glob(f"*-{commit}.json"), default=path)


def _forget(campaign: Campaign, stages: Sequence[str]) -> None:
    gone = tuple(table for name in stages for table in TABLES.get(name, (name,)))
    found = campaign.results
    found.rows = [row for row in found.rows if row.table not in gone]
    found.without_number = {
        name: reason for name, reason in found.without_number.items() if not name.startswith(gone or ("\0",))
    }
    for name in stages:
        found.stages.pop(name, None)


if __name__ == "__main__":
    os.chdir(ROOT)
    from bench import campaign as module  # its classes are those that the stages raise, not __main__'s

    module.main()
