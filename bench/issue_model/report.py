"""The model's results as text."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from bench.issue_model import costs
from bench.issue_model.model import Result
from bench.issue_model.workloads import Workload

LINES = 30  # of a profile


def text(workload: Workload, results: list[Result], seconds: float) -> str:
    """A head line for the call and a line for each launch."""
    total = sum(r.work.seconds for r in results)
    floor = workload.minimum / costs.MEMORY_BYTES
    instructions = sum(r.work.instructions for r in results) * 32 / workload.elements
    head = (
        f"model {workload.name}: {total * 1e6:.2f} us in {len(results)} launch{'es' * (len(results) != 1)}, "
        f"{instructions:.2f} instructions an element; memory floor {floor * 1e6:.2f} us  [{seconds:.1f} s to model]"
    )
    return "\n".join([head, *(_launch(r, workload.elements) for r in results)])


def _launch(result: Result, elements: int) -> str:
    work, start = result.work, result.launch.start
    bounds = sorted(work.bounds.items(), key=lambda item: -item[1])
    shown = " ".join(f"{name} {value * 1e6:.2f}" for name, value in bounds if value >= 0.02 * bounds[0][1])
    kind = f", clusters of {start.cluster}" if start.cluster > 1 else ", cooperative" if start.cooperative else ""
    block = start.block[0] * start.block[1] * start.block[2]
    return (
        f"  model {result.launch.label}: {work.seconds * 1e6:.2f} us, {work.binds} binds ({shown} us); "
        f"{work.instructions * 32 / elements:.2f} instr/el; {work.blocks} blocks of {block}{kind}, "
        f"{result.code.kernel.registers} registers, {start.shared + result.code.kernel.static_shared} B shared; "
        f"{work.resident} a multiprocessor ({work.occupancy:.0%} of warps), {work.waves:.2f} waves; "
        f"{work.passes / elements * 32:.2f} shared passes x 32/el, {work.sectors * 32 / elements:.2f} global B/el"
    )


def profile(result: Result, elements: int) -> str:
    """Where the warp instructions are: by pipe, by name and by source line."""
    issued = result.counts.issued.astype(float) * result.scale
    passes = result.counts.passes.astype(float) * result.scale
    sectors = result.counts.sectors.astype(float) * result.scale
    lanes = result.counts.lanes.astype(float) * result.scale
    total = issued.sum()
    out = [f"  model profile of {result.launch.label}: {total:.0f} warp instructions, {total * 32 / elements:.2f} an element"]
    pipes = sorted(result.work.by_pipe.items(), key=lambda item: -item[1])
    out.append("    by pipe: " + ", ".join(f"{name} {count / total:.1%}" for name, count in pipes))
    names: dict[str, float] = defaultdict(float)
    lines: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0] * 4)
    for line, *numbers in zip(result.code.lines, issued, lanes, passes, sectors, strict=True):
        names[line.name.partition(".")[0]] += numbers[0]
        for i, number in enumerate(numbers):
            lines[line.source][i] += number
    top = sorted(names.items(), key=lambda item: -item[1])[:16]
    out.append("    by name: " + ", ".join(f"{name} {count / total:.1%}" for name, count in top))
    out.append("    share   instr/el  lanes  shared passes x 32/el  global B/el  line")
    for (file, number), (count, active, passed, touched) in sorted(lines.items(), key=lambda item: -item[1][0])[:LINES]:
        source = _source(file, number)
        out.append(
            f"    {count / total:6.1%} {count * 32 / elements:9.2f} {active / max(count, 1):6.1f} "
            f"{passed * 32 / elements:10.2f} {touched * 32 / elements:17.2f}  {source}"
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
