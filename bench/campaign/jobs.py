"""Runs the jobs of a phase in processes of their own, and keeps each result as it comes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.campaign.record import Record
from segnext_kernels import isolation

START_SECONDS = 90.0  # for a process to import torch and find the device
TRUST = {"SEGNEXT_SELF_CHECK": "0"}  # the campaign's own comparisons are finer

DRY = {
    "OMP_NUM_THREADS": "1"
}  # shapes are tiny, so threads of several processes would only wait for each other


@dataclass(frozen=True)
class Settings:
    """Holds what every job is told."""

    dry_run: bool = False
    planted: dict[str, str] = field(default_factory=dict)
    again: bool = False


def run(
    record: Record,
    phase: str,
    jobs: Sequence[str],
    *,
    seconds: float,
    together: int,
    apart: bool,
    deadline: float,
    settings: Settings,
) -> None:
    """Run the jobs that have no result yet, or one that time cut short.

    Args:
        seconds: time that a job may take.
        together: number of processes at once.
        apart: whether each job has a process of its own. Otherwise one process runs all, and a new one starts after a
            job that ends it.
        deadline: in the time of `time.monotonic`; jobs that have not begun by then are left for the next run.
    """
    start = time.monotonic()
    left = [job for job in jobs if settings.again or not record.is_finished(phase, job)]
    groups = [[job] for job in left] if apart else [left] if left else []
    with ThreadPoolExecutor(together) as pool:
        list(pool.map(lambda group: _run_group(record, phase, group, seconds, deadline, settings), groups))
    missing = [job for job in jobs if record.finding(phase, job) is None]
    wrong = [job for job in jobs if record.finding(phase, job) is not None and not record.passed(phase, job)]
    words = [f"{len(jobs) - len(missing) - len(wrong)} of {len(jobs)} ok"]
    words += [f"{len(wrong)} not"] if wrong else []
    words += [f"no time for {len(missing)}"] if missing else []
    cut = [job for job in jobs if job not in missing and not record.is_finished(phase, job)]
    words += [f"too little for {len(cut)}"] if cut else []
    record.close(phase, ", ".join(words), time.monotonic() - start)


def _run_group(
    record: Record, phase: str, group: Sequence[str], seconds: float, deadline: float, settings: Settings
) -> None:
    names = {f"{phase}: {job}": job for job in group}
    options = {"dry_run": settings.dry_run, "seconds": seconds, "planted": settings.planted}
    # the job "self-check" is about a user's first call, so it must not trust the kernels
    environment = os.environ if group == ["self-check"] else {**os.environ, **TRUST}
    if settings.dry_run:
        environment = {**environment, **DRY}
    found = isolation.outcomes(
        [sys.executable, "-m", "bench.campaign.worker", json.dumps(options)],
        list(names),
        seconds=seconds + 1,  # jobs that run programs stop these themselves, and keep their output
        start_seconds=START_SECONDS,
        environment=environment,
        deadline=deadline,
        log=lambda text: record.log(f"{phase}: {', '.join(group)[:200]}", text),
    )
    try:
        for name, result in found:
            if isinstance(result, isolation.Ended):
                result = {"ok": False, "says": result.reason}
            record.keep(phase, names[name], result)
    except isolation.NotStarted as error:
        for job in group:
            if record.finding(phase, job) is None:
                record.keep(phase, job, {"ok": False, "says": f"did not start: {error}"})
