"""The plots of docs/figures, and what docs/performance.md says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import report, results
from bench.campaign.models import TABLE
from bench.newest import is_on_gpu, is_shown, measured_on, newest_runs, on_cpu
from bench.pages.svg import OTHER, OURS, Bar, Group, bar_chart

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
MODELS = "models, fp32"
SHOWN_PEERS = 4


def plots() -> dict[Path, str]:
    """Return the drawings of docs/figures."""
    return {
        FIGURES / "speed.svg": speed_plot(),
        FIGURES / "floor.svg": floor_plot(),
        FIGURES / "gpu.svg": gpu_plot(),
    }


def _of_first_cpu() -> results.Results:
    return next(run for _, run in newest_runs() if not is_on_gpu(run))


def speed_plot() -> str:
    """Draw the milliseconds from image to mask, ours and the fastest others', on the first CPU."""
    run, groups = _of_first_cpu(), []
    for row in run.rows:
        if row.table != MODELS or not is_shown(row):
            continue
        peers = sorted(
            (name for name in row.times if name != results.OURS), key=lambda name: row.times[name].median
        )
        bars = [_bar("segnext", row, results.OURS)]
        bars += [_bar(name, row, name) for name in peers[:SHOWN_PEERS]]
        groups.append(Group(row.name.removesuffix(", to the mask"), bars, own_scale=True))
    return bar_chart(
        "Image to mask, milliseconds: shorter is faster",
        groups,
        note=f"{on_cpu(run)} All took turns, with equal results.",
    )


def _bar(label: str, row: results.Row, name: str) -> Bar:
    ours, time = row.times[results.OURS].median, row.times[name].median
    is_ours = name == results.OURS
    text = report.number(time) + ("" if is_ours else f"  ({time / ours:.2f}x)")
    return Bar(label, [(time, OURS if is_ours else OTHER)], text, is_ours)


def floor_plot() -> str:
    """Draw which part of each op's time is its floor, at the shape of the model with the longest time."""
    run, best = _of_first_cpu(), {}
    for row in run.rows:
        op = row.name.split(" ")[0]
        share = row.roofline_share(run.ceilings)
        if row.table != "ops, forward" or share is None:
            continue
        if op not in best or row.times[results.OURS].median > best[op][0].times[results.OURS].median:
            best[op] = (row, share)
    bars = [
        Bar(op, [(share, OURS)], f"{100 * share:.0f} %  {report.number(row.times[results.OURS].median)} ms")
        for op, (row, share) in sorted(best.items(), key=lambda item: -item[1][1])
    ]
    return bar_chart(
        "Share of the floor: the time that this machine needs at least, of ours",
        [Group("", bars)],
        note=f"{on_cpu(run)} Each op's longest shape of T and B at 512x512.",
    )


def gpu_plot() -> str:
    """Draw images per second of the newest run of models on a GPU."""
    run = next(
        run for _, run in newest_runs() if is_on_gpu(run) and any(row.table == TABLE for row in run.rows)
    )
    groups = []
    for row in run.rows:
        if row.table != TABLE or "images_per_s" not in row.notes:
            continue
        rates = row.notes["images_per_s"]
        bars = [
            Bar(
                "segnext" if name == results.OURS else name,
                [(rate, OURS if name == results.OURS else OTHER)],
                f"{rate:,.0f}",
                name == results.OURS,
            )
            for name, rate in sorted(rates.items(), key=lambda item: item[0] != results.OURS)
        ]
        groups.append(Group(row.name, bars, own_scale=True))
    machine = run.machine
    return bar_chart(
        "Images per second, image to mask: longer is faster",
        groups,
        note=f"{machine['device']}, bfloat16, {machine['date'][:10]}, commit {machine['commit']}.",
    )


def slower() -> str:
    """Return what is slower than a peer: whole models one by one, operators counted."""
    lines = []
    for _, run in newest_runs():
        timed = [row for row in run.rows if row.best_peer != results.OURS]
        models = [row for row in timed if is_shown(row) or row.table == TABLE]
        behind = [f"{named(row)} {row.ratio:.2f}x {row.best_peer}" for row in models if row.ratio < 1]
        ops = [row for row in timed if row.table.startswith("ops")]
        slow = [row for row in ops if row.ratio < 0.95]
        names = sorted({row.name.split(" ")[0] for row in slow})
        whole = "; ".join(behind) or "no whole model"
        share = f"{len(slow)} of {len(ops)} times of operators by more than 5 % ({', '.join(f'`{n}`' for n in names)})"
        lines.append(f"- {measured_on(run)}: {whole}{'; ' + share if slow else ''}.")
    return "\n".join(lines)


def named(row: results.Row) -> str:
    """Return a workload's name and, where its table's title has one, the dtype."""
    dtype = row.table.partition(", ")[2]
    return f"{row.name}, {dtype}" if dtype else row.name


def memory() -> str:
    """Return peak memory and, of CPUs, the first call on each machine, where they were measured."""
    parts = []
    for _, run in newest_runs():
        title, table = report.fresh(run)
        if table:
            parts.append(f"{measured_on(run)}, {title}:\n\n{table}")
    return "\n\n".join(parts) or "Not measured yet."


PARTS: dict[str, Callable[[], str]] = {"slower": slower, "memory": memory}
