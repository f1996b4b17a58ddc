"""Keeps the campaign's two files: the results, rewritten after every job, and the output of failed jobs."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from bench import results
from bench.results import Ceilings, Row
from bench.roofline import UNKNOWN

MOST_LOG = 4000  # characters of one job's output that are kept, from the end, where errors are


class Record:
    """Holds what is known so far; several threads may use it.

    A disk that is full or gone costs nothing that is in memory: saving is tried again with each result, and everything
    is printed at the end.

    Args:
        path: the result file; it is read if it exists.
        machine: see `bench.machine.describe`.
    """

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self.path, self.log_path = path, path.with_suffix(".log")
        self.results = results.read(path) if path.exists() else results.Results(machine, UNKNOWN, [])
        self.results.machine = machine
        self.unsaved = ""
        self._lock = threading.Lock()

    def phase(self, name: str) -> dict[str, Any]:
        """Return a phase's part of the file: status, seconds, and a finding for each job."""
        return self.results.stages.setdefault(name, {"status": "not run", "seconds": 0.0, "findings": {}})

    def finding(self, phase: str, job: str) -> dict[str, Any] | None:
        """Return what a job found; None if it has not run."""
        found = self.phase(phase)["findings"].get(job)
        return found if isinstance(found, dict) else None

    def is_finished(self, phase: str, job: str) -> bool:
        """Return whether a job has a result that its time did not cut short."""
        found = self.finding(phase, job)
        return found is not None and not found.get("cut")

    def has_run(self, phase: str) -> bool:
        """Return whether a job of the phase has a result."""
        return bool(self.results.stages.get(phase, {}).get("findings"))

    def passed(self, phase: str, job: str) -> bool:
        """Return whether a job ran and found nothing wrong."""
        return bool((self.finding(phase, job) or {}).get("ok"))

    def keep(self, phase: str, job: str, result: dict[str, Any]) -> None:
        """Keep a job's result: ``ok``, ``rows`` of tables, ``ceilings``, and whatever else it says."""
        with self._lock:
            finding = {key: value for key, value in result.items() if key not in ("rows", "ceilings")}
            self.phase(phase)["findings"][job] = finding
            for row in result.get("rows", ()):
                made = results.row_of(row)
                self.results.rows = [
                    r for r in self.results.rows if (r.table, r.name) != (made.table, made.name)
                ]
                self.results.rows.append(made)
            if "ceilings" in result:
                self.results.ceilings = results.ceilings_of(result["ceilings"])
            if not result["ok"]:
                self.results.without_number[f"{phase}: {job}"] = str(result.get("says", ""))[:300]
            else:
                self.results.without_number.pop(f"{phase}: {job}", None)
            self._save()
        print(f"{phase}: {job}: {'ok' if result['ok'] else 'NOT OK'}  {result.get('says', '')}", flush=True)

    def close(self, phase: str, status: str, seconds: float) -> None:
        """Keep how a phase ended."""
        with self._lock:
            record = self.phase(phase)
            record["status"], record["seconds"] = status, round(record["seconds"] + seconds, 1)
            self._save()
        print(f"{phase}: {status}, {seconds:.0f} s", flush=True)

    def log(self, job: str, text: str) -> None:
        """Keep the end of a job's output."""
        try:
            with self._lock, self.log_path.open("a") as file:
                file.write(f"\n==== {job}\n{text[-MOST_LOG:]}\n")
        except OSError as error:
            self._complain(self.log_path, error)

    def _save(self) -> None:
        try:
            results.save(self.results, self.path)
            self.unsaved = ""
        except OSError as error:
            self._complain(self.path, error)

    def _complain(self, path: Path, error: OSError) -> None:
        if not self.unsaved:
            print(
                f"bench.campaign: {path} could not be written ({error.strerror}); going on", file=sys.stderr
            )
        self.unsaved = str(error)


def as_json(row: Row | Ceilings) -> dict[str, Any]:
    """Return a row or the ceilings in the form in which they travel from a job's process."""
    import dataclasses

    return dataclasses.asdict(row)
