"""Models one launch: runs some of its blocks, and scales what they issue to the whole grid."""

from __future__ import annotations

from dataclasses import dataclass

from bench.issue_model import costs, executor
from bench.issue_model.executor import Code, Counts
from bench.issue_model.record import Launch

BLOCKS = 12  # blocks of a grid that run: the first, the last and some between
BUDGET = 12_000_000  # warp instructions per launch after which no more blocks run; that takes some seconds


@dataclass(frozen=True)
class Result:
    """Holds a launch and what it costs."""

    launch: Launch
    code: Code
    counts: Counts
    work: costs.Work

    @property
    def scale(self) -> float:
        """Return the factor from the counts of the blocks that ran to those of all blocks."""
        return self.work.blocks / len(self.counts.blocks)


def modelled(launch: Launch, blocks: int = BLOCKS) -> Result:
    """Run some blocks of a launch and estimate the whole."""
    start = launch.start
    code = executor.code(launch.cubin, launch.kernel)
    counts = executor.empty_counts(code)
    total = start.grid[0] * start.grid[1] * start.grid[2]
    chosen = list(executor.sampled_blocks(start.grid, blocks))
    # first, last, then middle ones, so that the budget never leaves out an edge
    order = [chosen[0], chosen[-1], *chosen[1:-1]] if len(chosen) > 1 else chosen
    for index in order:
        executor.run_block(code, start, index, counts)
        if sum(counts.blocks) > BUDGET:
            break
    ran = len(counts.blocks)
    scale = total / ran
    issued = counts.issued.astype(float) * scale
    names = [line.name for line in code.lines]
    tensor = {"HMMA": 0.0, "HGMMA": 0.0}
    cluster_barriers = grid_barriers = 0.0
    threads = start.block[0] * start.block[1] * start.block[2]
    warps = -(-threads // 32)
    for name, count in zip(names, issued, strict=True):
        if not count:
            continue
        base = name.partition(".")[0]
        if base in tensor:
            tensor[base] += count * costs.multiply_adds(name)
        elif base == "UCGABAR_WAIT":
            cluster_barriers += count / total / warps
        elif (
            base in ("ATOM", "ATOMG") and "STRONG" in name and start.cooperative
        ):  # one per block and barrier
            grid_barriers += count / total
    shared = start.shared + code.kernel.static_shared
    work = costs.Work(
        blocks=total,
        resident=max(costs.residency(code.kernel.registers, threads, shared), 1),
        warps=warps,
        instructions=float(issued.sum()),
        longest_warp=float(max(counts.longest)),
        by_pipe=costs.by_pipe(zip(names, issued, strict=True)),
        passes=float(counts.passes.sum()) * scale,
        sectors=float(counts.sectors.sum()) * scale,
        tensor=tensor,
        cluster_barriers=cluster_barriers,
        grid_barriers=grid_barriers,
    )
    return Result(launch, code, counts, costs.price(work))
