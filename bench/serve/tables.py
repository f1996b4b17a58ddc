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
    return "\n\n".join(makers[row.table](row) for row in run.rows)


def _overhead(row: Row) -> str:
    ours, library = row.times[OURS].median, row.times[LIBRARY].median
    lines = [
        [
            "a photograph's file to its mask's file, ms",
            "service",
            "`Predictor` in a loop",
            "the service's share",
        ]
    ]
    lines.append([row.name, f"{ours:.1f}", f"{library:.1f}", f"{ours - library:.1f}"])
    return report.aligned(lines)


def _load(row: Row) -> str:
    notes = row.notes
    p50, p95, p99 = (f"{1e3 * notes['latency'][name]:,.0f}" for name in ("p50", "p95", "p99"))
    rates = [f"{1e3 / row.times[name].median:.2f}" for name in (OURS, LIBRARY)]
    header = [
        "",
        "answers",
        "p50, ms",
        "p95, ms",
        "p99, ms",
        "images/s",
        "`Predictor` in a loop",
        "its share",
    ]
    share = f"{row.times[LIBRARY].median / row.times[OURS].median:.0%}"
    lines = [header, [row.name, _counted(notes["statuses"]), p50, p95, p99, *rates, share]]
    return f"{report.aligned(lines)}\n\n{_memory(notes['memory'])}"


def _faults(row: Row) -> str:
    notes = row.notes
    lines = [["sent", "answers: status and how many"]]
    lines += [[name, _counted(counts)] for name, counts in notes["answers"].items()]
    good = f"{1e3 * notes['latency']['p50']:,.0f} and {1e3 * notes['latency']['p99']:,.0f} ms"
    after = (
        f"In {notes['seconds']:.0f} s, {notes['requests']:,} requests, {notes['unanswered']} without an answer. Half "
        f"of the good requests and 99 % of them took at most {good}. The file of the model was deleted meanwhile, and "
        f"a second service on the same port ended with status {notes['second service']}."
    )
    return f"{report.aligned(lines)}\n\n{after} {_memory(notes['memory'])}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{status}: {count:,}" for status, count in sorted(counts.items()))


def _memory(memory: dict[str, Any]) -> str:
    before, peak, after = (f"{memory[name] / 1e6:,.0f}" for name in ("before", "peak", "after"))
    return f"Memory of the service: {before} MB before, {peak} MB at most, {after} MB after."
