"""Plans the phases of the three runs: their seconds, their jobs, and how these are run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.campaign import cases, checks, models, rivals, training
from bench.campaign.record import Record
from bench.results import OURS

SLOWEST = 3  # this many kernels are profiled


@dataclass(frozen=True)
class Phase:
    """Describes a part of a run.

    Attributes:
        name: a key of `worker.functions`.
        seconds: its time within the whole run; time that earlier phases leave is used too.
        jobs: names the jobs, given the record and whether this is a dry run; without a record, all possible jobs.
        each: seconds that a job may take.
        together: number of processes at once; jobs that time something have the device for themselves.
        apart: whether each job has a process of its own.
        after: the phase whose results decide which jobs there are.
    """

    name: str
    seconds: float
    jobs: Callable[[Record | None, bool], list[str]]
    each: float
    together: int = 1
    apart: bool = True
    after: str = ""


def _one(name: str) -> Callable[[Record | None, bool], list[str]]:
    return lambda record, dry_run: [name]


def _smoke(record: Record | None, dry_run: bool) -> list[str]:
    return ["self-check", *map(str, cases.kernels(dry_run))]


def _times(record: Record | None, dry_run: bool) -> list[str]:
    passed = cases.each(dry_run, lambda kernel: record is None or record.passed("smoke", str(kernel)))
    return [f"{kernel} {shape}" for kernel, shape in passed]


def _models(record: Record | None, dry_run: bool) -> list[str]:
    return list(models.DRY_MODELS if dry_run else models.MODELS)


def _pairs(record: Record | None, dry_run: bool) -> list[str]:
    """List one job per op and backend, CUDA's first; "auto" has no kernels of its own."""
    pairs = [(kernel.op, kernel.backend) for kernel in cases.kernels(dry_run) if kernel.backend != "auto"]
    return [f"{op} {backend}" for op, backend in dict.fromkeys(pairs)]


def _contract(record: Record | None, dry_run: bool) -> list[str]:
    """List a job for each memory format that an op and backend have: a process compiles for Triton on one core."""
    pairs = [(pair, checks.layouts(pair.split()[0])) for pair in _pairs(record, dry_run)]
    return [f"{pair} {layout}" for pair, layouts in pairs for layout in layouts]


def _suite(record: Record | None, dry_run: bool) -> list[str]:
    return list(checks.SUITE[:1] if dry_run else checks.SUITE)


def _anatomy(record: Record | None, dry_run: bool) -> list[str]:
    return _models(record, dry_run)[: models.TAKEN_APART]


def _compile(record: Record | None, dry_run: bool) -> list[str]:
    return list(models.DRY_MODELS if dry_run else models.COMPILED)


def _training(record: Record | None, dry_run: bool) -> list[str]:
    return list(training.DRY_STEPS if dry_run else training.STEPS)


def _rivals(record: Record | None, dry_run: bool) -> list[str]:
    return list(rivals.DRY_PAIRS if dry_run else rivals.PAIRS)


def _profile(record: Record | None, dry_run: bool) -> list[str]:
    """List the kernels that are farthest above their floors, as the first run timed them."""
    if record is None:
        return _times(None, dry_run)
    ceilings, worst = record.results.ceilings, {}
    for row in record.results.rows:
        op, _, shape = row.name.partition(" ")
        if row.table.startswith("ops"):
            share = (
                row.roofline_share(ceilings) or 0.0
            )  # unknown without ceilings: the longest are then profiled
            direction = "forward" if row.table == "ops, forward" else "backward"
            job = f"{op} {direction} {row.notes['backend']} {shape.partition(' ')[0]}"
            worst[job] = row.times[OURS].median * (1 - share)  # milliseconds that could be gained
    return sorted(worst, key=lambda job: -worst[job])[:SLOWEST]


FIRST = (
    Phase("probe", 15, _one("device"), 60),
    Phase("smoke", 60, _smoke, 60, together=8),
    Phase("models", 90, _models, 60, apart=False),
    Phase("anatomy", 45, _anatomy, 30),
    Phase("times", 110, _times, 25, apart=False, after="smoke"),
    Phase("contract", 90, _contract, 90, together=16),
    Phase("memcheck", 70, _pairs, 60, together=6),
)
SECOND = (
    Phase("tune", 45, _models, 40),  # a process keeps the measurements of its first model
    Phase("compile", 105, _compile, 150, together=4),
    Phase("training", 50, _training, 60),
    Phase("rivals", 30, _rivals, 40),
    Phase("profile", 60, _profile, 30, after="times"),
)
THIRD = (
    Phase("memcheck", 90, _pairs, 90, together=12),
    Phase("suite", 90, _suite, 90, together=12),
    Phase("contract", 290, _contract, 280, together=16),
)
RUNS = {"first": (FIRST, 480), "second": (SECOND, 290), "third": (THIRD, 470)}  # with their seconds
BUILD = Phase("build", 0, _one("library"), 150)  # only where no library was built beforehand


def text(phases: tuple[Phase, ...], seconds: float) -> str:
    """Return the plan as text: one line per phase says until when it may run."""
    total = sum(phase.seconds for phase in phases)
    lines, until = [], 0.0
    for phase in phases:
        until += phase.seconds * seconds / total
        how = f"{phase.together} at a time" if phase.together > 1 else "alone on the device"
        lines.append(f"  until {until:4.0f} s  {phase.name:<9} a job at most {phase.each:.0f} s, {how}")
    return "\n".join(lines)
