"""The command line of `bench.campaign`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import campaign, machine, report, results
from bench.campaign import jobs, plan, prebuilt, precompiled
from bench.campaign.record import Record
from bench.campaign.worker import FAULTS
from segnext_kernels import native

FOLDER = "SEGNEXT_RESULTS"


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    made = argparse.ArgumentParser(
        prog="python -m bench.campaign",
        description=campaign.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    runs = made.add_mutually_exclusive_group(required=True)
    for name, what in (
        ("first", "checks, times, models: nine minutes at most"),
        ("second", "tuning, torch.compile, training, profiles"),
        ("third", "the contract, the memory checker and the tests on the device, to their ends"),
    ):
        runs.add_argument(f"--{name}", dest="run", action="store_const", const=name, help=what)
    defaults = ", ".join(f"{seconds} for --{name}" for name, (_, seconds) in plan.RUNS.items())
    made.add_argument("--seconds", type=float, help=f"time of the whole run; default: {defaults}")
    made.add_argument(
        "--results",
        type=Path,
        default=Path(os.environ.get(FOLDER) or results.FOLDER),
        help=f"folder of the result file; default: the variable {FOLDER}, else bench/results",
    )
    made.add_argument(
        "--prebuilt",
        type=Path,
        metavar="DIR",
        help="a library for this machine's Python and device, with its _build.json, and perhaps Triton's kernels by "
        "`python -m bench.campaign.precompiled`; default: build where none is there",
    )
    made.add_argument("--phases", help="run only these, separated by commas")
    made.add_argument("--limit", type=float, help="seconds that a job may take, instead of its phase's")
    made.add_argument("--again", action="store_true", help="run jobs again that have a result")
    made.add_argument("--commit", help="the commit that is measured, if the checkout has no .git")
    made.add_argument("--plan", action="store_true", help="print the phases and their seconds, and stop")
    made.add_argument(
        "--dry-run", action="store_true", help="on the CPU with tiny shapes; proves the campaign"
    )
    made.add_argument(
        "--plant",
        action="append",
        default=[],
        metavar="JOB=FAULT",
        help="in a dry run: let a job such as 'smoke: dwconv_gelu forward cuda' end in segv, hang, triton or capture",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.campaign`."""
    begin = time.monotonic()
    options = parser().parse_args(arguments)
    phases, seconds = plan.RUNS[options.run]
    seconds = options.seconds or seconds
    known = [phase.name for phase in phases]
    wanted = options.phases.split(",") if options.phases else known
    if unknown := [name for name in wanted if name not in known]:
        parser().error(f"--phases: {', '.join(unknown)} is none of {', '.join(known)}")
    planted = _planted(options, phases)
    print(plan.text(phases, seconds), flush=True)
    if options.plan:
        return
    if options.prebuilt:
        precompiled.install(options.prebuilt)
        _take(options)
    described = _described(options)
    record = Record(_file_of(described, options.results), described)
    settings = jobs.Settings(options.dry_run, planted, options.again)
    if not options.dry_run:
        _provide_library(options, record, settings, begin + seconds)
    total, until = sum(phase.seconds for phase in phases), 0.0
    for phase in phases:
        until += phase.seconds * seconds / total
        if phase.name in wanted and phase.after and not record.has_run(phase.after):
            missing = f"{phase.name} takes its jobs from the results of {phase.after}; {record.path} has none"
            if options.phases:
                parser().exit(1, f"bench.campaign: {missing}; run {phase.after} first, or both\n")
            print(f"{phase.name}: nothing to do: {missing}", flush=True)
        elif phase.name in wanted:
            jobs.run(
                record,
                phase.name,
                phase.jobs(record, options.dry_run),
                seconds=min(phase.each, options.limit or phase.each),
                together=phase.together,
                apart=phase.apart,
                deadline=begin + until,
                settings=settings,
            )
    print(f"\n{report.render(record.results)}\n")
    print(f"not stored: {record.unsaved}" if record.unsaved else f"stored in {record.path}")


def _planted(options: argparse.Namespace, phases: tuple[plan.Phase, ...]) -> dict[str, str]:
    """Map each job that `--plant` names to its fault."""
    if options.plant and not options.dry_run:
        parser().error("--plant: only in a dry run")
    known = [f"{phase.name}: {job}" for phase in phases for job in phase.jobs(None, options.dry_run)]
    planted = {}
    for each in options.plant:
        job, _, fault = each.rpartition("=")
        if job not in known:
            parser().error(f"--plant: {job!r} is no job of this run; they are {', '.join(known)}")
        if fault not in FAULTS:
            parser().error(f"--plant: {fault!r} is none of {', '.join(FAULTS)}")
        planted[job] = fault
    return planted


def _take(options: argparse.Namespace) -> None:
    """Install the library that was built beforehand if it works here; otherwise a real run builds one."""
    reason = prebuilt.missing(options.prebuilt)
    if reason and options.dry_run:
        parser().error(f"--prebuilt: {reason}")
    if reason is None and prebuilt.install(options.prebuilt):
        # start again: this process has loaded, or missed, the library that was there before
        os.execv(sys.executable, [sys.executable, "-m", "bench.campaign", *sys.argv[1:]])


def _described(options: argparse.Namespace) -> dict[str, Any]:
    """Describe the machine and the commit; exit if there is nothing to measure."""
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        parser().exit(
            1, "bench.campaign: torch sees no GPU here; --dry-run goes through everything on the CPU\n"
        )
    described = machine.describe()
    described["commit"] = options.commit or described["commit"]
    if described["commit"] == "nocommit":
        parser().error("--commit: needed here, where git does not know what is measured")
    if options.dry_run:
        described["slug"] = f"dry-run-{described['slug']}"
    return described


def _file_of(described: dict[str, Any], folder: Path) -> Path:
    """Return the file of an earlier run for this device and commit, or a new one of today."""
    path = results.path_of(described, folder)
    _, _, commit = path.stem.rpartition("-")
    return max(path.parent.glob(f"*-{commit}.json"), default=path)


def _provide_library(
    options: argparse.Namespace, record: Record, settings: jobs.Settings, deadline: float
) -> None:
    """Use the library that was built beforehand, else the one that is there, else build one."""
    reason = prebuilt.missing(options.prebuilt or prebuilt.PACKAGE) or native.missing("cuda")
    if reason is None:
        return
    print(f"the library is built here: {reason}", flush=True)
    phase = plan.BUILD
    jobs.run(
        record,
        phase.name,
        phase.jobs(record, False),
        seconds=phase.each,
        together=1,
        apart=True,
        deadline=deadline,
        settings=jobs.Settings(again=True),
    )


if __name__ == "__main__":
    main()
