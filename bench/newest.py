"""The newest result files of each machine, for the documents."""

from __future__ import annotations

import json
from pathlib import Path

from bench import results


def newest_runs() -> list[tuple[Path, results.Results]]:
    """Return the newest result file of each CPU, and all of a GPU, newest first: one run holds a part."""
    found = []
    for folder in sorted({path.parent for path in results.FOLDER.glob("*/*.json")}):
        paths = sorted(folder.glob("*.json"), key=date_of, reverse=True)
        runs = [(path, results.read(path)) for path in paths]
        found += runs if is_on_gpu(runs[0][1]) else runs[:1]
    return found


def measured_on(run: results.Results) -> str:
    machine = run.machine
    threads = "" if is_on_gpu(run) else f"{machine['threads']} threads, "
    return (
        f"**{machine['device']}**, {threads}{machine['date'][:10]}, "
        f"torch {machine['versions']['torch']}, commit {machine['commit']}"
    )


def is_shown(row: results.Row) -> bool:
    """Return whether a row is a whole job on a quiet machine: image to mask, or a training step."""
    is_whole = row.name.endswith("to the mask") or row.table.startswith("training")
    return is_whole and not row.table.startswith("beside")


def is_on_gpu(run: results.Results) -> bool:
    return bool(run.machine["device"] != run.machine["cpu"])


def date_of(path: Path) -> str:
    return str(json.loads(path.read_text())["machine"]["date"])


def on_cpu(run: results.Results) -> str:
    """Return the words below a drawing of a CPU's times in float32."""
    machine = run.machine
    date, commit = machine["date"][:10], machine["commit"]
    return f"{machine['device']}, {machine['threads']} threads, fp32, {date}, commit {commit}."
