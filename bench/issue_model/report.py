"""Writes the model's results as text; every line says that it is a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.issue_model import costs
from bench.issue_model.floors import floor
from bench.issue_model.model import Result
from bench.issue_model.plan import Foreign, Step
from bench.issue_model.workloads import Workload

LINES = 30  # source lines that a profile shows


def seconds(steps: Sequence[Step]) -> float:
    """Sum the kernels' own bounds."""
    return sum(s.what.seconds if isinstance(s.what, Foreign) else s.what.work.seconds for s in steps)


def launches(steps: Sequence[Step]) -> int:
    """Count the kernels that start."""
    return sum(s.what.launches if isinstance(s.what, Foreign) else 1 for s in steps)


def instructions(steps: Sequence[Step]) -> float:
    """Sum the warp instructions of our kernels."""
    return sum(s.what.work.instructions for s in steps if isinstance(s.what, Result))


def text(workload: Workload, steps: Sequence[Step], took: float) -> str:
    """Write a head line for the call and a line for each launch."""
    least = floor(workload.op, workload.direction, workload.elements, workload.minimum)
    each = instructions(steps) * 32 / workload.elements
    total = seconds(steps)
    head = (
        f"model {workload.name}: {total * 1e6:.2f} us in {launches(steps)} launches, {each:.2f} instr/el; "
        f"floor {least * 1e6:.2f} us ({least / total:.0%} of it reached)  [{took:.1f} s to model]"
        if total
        else f"model {workload.name}: launches nothing"
    )
    lines = [_line(step, workload.elements) for step in steps]
    counted = [
        f"{line} (x {lines.count(line)})" if lines.count(line) > 1 else line for line in dict.fromkeys(lines)
    ]
    return "\n".join([head, *counted])


def _line(step: Step, elements: int) -> str:
    if isinstance(step.what, Foreign):
        f = step.what
        return (
            f"  model {f.label} of PyTorch: {f.seconds * 1e6:.2f} us at best ({f.bytes_moved / 1e6:.2f} MB, "
            f"{f.flops / 1e9:.2f} GFLOP); {f.launches} launches"
        )
    result = step.what
    work, start = result.work, result.launch.start
    bounds = sorted(work.bounds.items(), key=lambda item: -item[1])
    shown = " ".join(f"{name} {value * 1e6:.2f}" for name, value in bounds if value >= 0.02 * bounds[0][1])
    kind = (
        f", clusters of {start.cluster}"
        if start.cluster > 1
        else ", cooperative"
        if start.cooperative
        else ""
    )
    block = start.block[0] * start.block[1] * start.block[2]
    return (
        f"  model {result.launch.label}: {work.seconds * 1e6:.2f} us, {work.binds} binds ({shown} us); "
        f"{work.instructions * 32 / elements:.2f} instr/el; {work.blocks} blocks of {block}{kind}, "
        f"{result.code.kernel.registers} registers, {start.shared + result.code.kernel.static_shared} B shared; "
        f"{work.resident} a multiprocessor ({work.occupancy:.0%} of warps), {work.waves:.2f} waves; "
        f"{work.passes / elements * 32:.2f} shared passes x 32/el, {work.sectors * 32 / elements:.2f} L2 B/el"
    )


def deployed(name: str, steps: Sequence[Step]) -> str:
    """Write the sum of a forward pass, kernel by kernel, the costliest first."""
    rows: dict[tuple[str, str, bool], list[float]] = defaultdict(lambda: [0, 0.0])
    for step in steps:
        foreign = isinstance(step.what, Foreign)
        label = (
            step.what.label
            if isinstance(step.what, Foreign)
            else step.what.launch.label.split("<")[0].split(" ")[0]
        )
        row = rows[(step.op, label, foreign)]
        row[0] += launches([step])
        row[1] += seconds([step])
    ours = [s for s in steps if isinstance(s.what, Result)]
    theirs = [s for s in steps if isinstance(s.what, Foreign)]
    nodes, own = launches(steps), seconds(steps)
    total = own + nodes * costs.LAUNCH
    lines = [
        f"model {name}: {own * 1e6:.0f} us of kernels ({seconds(ours) * 1e6:.0f} ours in {launches(ours)} launches,"
        f" {seconds(theirs) * 1e6:.0f} PyTorch's in {launches(theirs)}), + {nodes} x {costs.LAUNCH * 1e6:.1f} us"
        f" between launches = {total * 1e6:.0f} us, {1 / total:.0f} a second at best"
    ]
    for (op, label, foreign), (count, time) in sorted(rows.items(), key=lambda item: -item[1][1]):
        lines.append(f"  model {time * 1e6:8.2f} us  {count:3.0f} x  {op}: {label}{' (PyTorch)' * foreign}")
    return "\n".join(lines)


def profile(result: Result, elements: int) -> str:
    """Write where the warp instructions are: by pipe, by name and by source line."""
    numbers = [array.astype(float) * result.scale for array in (
        result.counts.issued, result.counts.lanes, result.counts.passes, result.counts.sectors)]  # fmt: skip
    total = numbers[0].sum()
    each = total * 32 / elements
    out = [f"  model profile of {result.launch.label}: {total:.0f} warp instructions, {each:.2f} an element"]
    pipes = sorted(result.work.by_pipe.items(), key=lambda item: -item[1])
    out.append("    by pipe: " + ", ".join(f"{name} {count / total:.1%}" for name, count in pipes))
    names: dict[str, float] = defaultdict(float)
    lines: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0] * 4)
    for line, *counted in zip(result.code.lines, *numbers, strict=True):
        names[line.name.partition(".")[0]] += counted[0]
        for i, number in enumerate(counted):
            lines[line.source][i] += number
    top = sorted(names.items(), key=lambda item: -item[1])[:16]
    out.append("    by name: " + ", ".join(f"{name} {count / total:.1%}" for name, count in top))
    out.append("    share   instr/el  lanes  shared passes x 32/el  L2 B/el  line")
    for (file, number), (count, active, passed, touched) in sorted(
        lines.items(), key=lambda item: -item[1][0]
    )[:LINES]:
        out.append(
            f"    {count / total:6.1%} {count * 32 / elements:9.2f} {active / max(count, 1):6.1f} "
            f"{passed * 32 / elements:10.2f} {touched * 32 / elements:17.2f}  {_source(file, number)}"
        )
    return "\n".join(out)


def _source(file: str, number: int) -> str:
    if not file:
        return "?"
    path = Path(file)
    name = "/".join(path.parts[-2:])
    try:
        return f"{name}:{number}  {path.read_text(errors='replace').splitlines()[number - 1].strip()[:90]}"
    except (OSError, IndexError):
        return f"{name}:{number}"
