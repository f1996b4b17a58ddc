"""Keeps the committed table of what each op's kernels issue, one line per call, and says what has grown since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.issue_model import report
from bench.issue_model.model import Result
from bench.issue_model.plan import Step
from oracle import nvcc

PATH = Path(__file__).resolve().parents[1] / "issue_model.json"
TOLERANCE = 0.03  # a kernel that issues more than this share in addition is reported
COMMAND = "python -m bench.issue_model --only {op} --write"
MODEL_COMMAND = "python -m bench.issue_model --model {size} --write"
Row = dict[str, Any]


def row(steps: Sequence[Step], elements: int) -> Row:
    """Return instructions per element and the bound in microseconds, of the call and of each kernel."""
    kernels: dict[str, list[float]] = {}
    for step in steps:
        if isinstance(step.what, Result):
            numbers = kernels.setdefault(step.what.launch.label, [0, 0.0, 0.0])
            numbers[0] += 1
            numbers[1] += step.what.work.instructions * 32 / elements
            numbers[2] += step.what.work.seconds * 1e6
    rounded = {label: [n, round(i, 2), round(us, 3)] for label, (n, i, us) in kernels.items()}
    return {
        "launches": report.launches(steps),
        "instr/el": round(report.instructions(steps) * 32 / elements, 2),
        "us": round(report.seconds(steps) * 1e6, 3),
        "kernels": rounded,
    }


def compilers() -> str:
    """Return the versions that decide about the machine code."""
    import triton

    return f"nvcc {nvcc.release()}, triton {triton.__version__}"


def written_with() -> str:
    """Return the compilers whose machine code the table describes."""
    return json.loads(PATH.read_text())["compilers"]


def read() -> dict[str, Row]:
    """Map the name of each call to its row."""
    return json.loads(PATH.read_text())["rows"] if PATH.exists() else {}


def write(rows: Mapping[str, Row]) -> None:
    """Write one line per call, so that a change shows as one line."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(rows[name])}" for name in sorted(rows))
    head = (
        '"model": "modelled, not measured: warp instructions x 32 / elements of the sm_90 code, and the lower bound of '
        'the time; kernels: launches, instr/el, us"'
    )
    PATH.write_text(
        f'{{\n {head},\n "compilers": {json.dumps(compilers())},\n "rows": {{\n{lines}\n }}\n}}\n'
    )


def grown(name: str, now: Row, before: Row | None) -> str | None:
    """Say in a line what is worse than in the table by more than 3 %; None if nothing is."""
    op = name.split()[0]
    command = MODEL_COMMAND.format(size=op[-1]) if op.startswith("segnext_") else COMMAND.format(op=op)
    if before is None:
        return f"{name}: not in bench/issue_model.json; add it by `{command}`"
    for what in ("instr/el", "us", "launches"):
        old, new = float(before[what]), float(now[what])
        if new > old * (1 + TOLERANCE) + 0.01:
            change = f"{old:g} -> {new:g} ({new / old - 1:+.1%})" if old else f"{old:g} -> {new:g}"
            return (
                f"{name}: {what} {change}, modelled; a kernel may not grow by more than {TOLERANCE:.0%} unnoticed. "
                f"If it is worth it, write the table again: `{command}`"
            )
    return None
