"""The tables of docs/serving.md, from the rows of a run."""

from __future__ import annotations

from typing import Any

from bench import report
from bench.results import OURS, Results, Row

OVERHEAD, LOAD, FAULTS = "one request", "requests at once", "faults mixed in"
LIBRARY = "Predictor"


def tables(run: Results) -> str:
    """Return everything that a run found, as Markdown."""
    makers = {OVERHEAD: _overhead, LOAD: _load, FAULTS: _faults}
    return "\n\n".join(makers[title](rows) for title, rows in run.tables().items())


def _overhead(rows: list[Row]) -> str:
    lines = [["a photograph's file to its mask's file, ms", "service", "`Predictor`", "the service's share"]]
    for row in rows:
        ours, library = row.times[OURS].median, row.times[LIBRARY].median
        lines.append([row.name, f"{ours:.1f}", f"{library:.1f}", f"{ours - library:.1f}"])
    return report.aligned(lines)


def _load(rows: list[Row]) -> str:
    percentiles = ("p50", "p95", "p99")
    header = ["requests at once", "answers", *(f"{name}, ms" for name in percentiles), "images/s"]
    lines = [[*header, "`Predictor` in a loop", "of its rate", "memory before, at most, after, MB"]]
    for row in rows:
        latencies = [f"{1e3 * row.notes['latency'][name]:,.0f}" for name in percentiles]
        rates = [f"{1e3 / row.times[name].median:.2f}" for name in (OURS, LIBRARY)]
        share = f"{row.times[LIBRARY].median / row.times[OURS].median:.0%}"
        memory = ", ".join(_memory(row.notes["memory"]))
        lines.append([row.name, _counted(row.notes["statuses"]), *latencies, *rates, share, memory])
    return report.aligned(lines)


def _faults(rows: list[Row]) -> str:
    (row,) = rows
    notes = row.notes
    lines = [["sent", "answers: status and how many"]]
    lines += [[name, _counted(counts)] for name, counts in notes["answers"].items()]
    p50, p99 = (f"{1e3 * notes['latency'][name]:,.0f}" for name in ("p50", "p99"))
    before, peak, after = _memory(notes["memory"])
    return (
        f"{report.aligned(lines)}\n\nIn {notes['seconds']:.0f} s, {notes['requests']:,} requests, "
        f"{notes['unanswered']} of them without an answer. Half of the good requests took at most {p50} ms, and 99 % "
        f"of them {p99} ms. The file of the model was deleted meanwhile, and a second service on the same port ended "
        f"with status {notes['second service']}. The service took {before} MB before, {peak} MB at most, {after} MB "
        "after."
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{status}: {count:,}" for status, count in sorted(counts.items()))


def _memory(memory: dict[str, Any]) -> list[str]:
    """Return megabytes before, at most, after."""
    return [f"{memory[name] / 1e6:,.0f}" for name in ("before", "peak", "after")]
