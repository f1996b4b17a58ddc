"""Shows the tables and plots of a result file: `python -m bench.report [FILE]` takes the newest, or the one named.

The tables are Markdown; the plots are PNG files beside the result file, one per table, and one of all anatomies.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.newest import is_on_gpu
from bench.results import OURS, Anatomy, Results, Row, newest, read
from bench.roofline import Ceilings

OURS_COLOUR, OTHER_COLOUR = "#0072b2", "#999999"
# Each peer has the same colour in every plot; the colours are distinct for the colour-blind too.
PEER_COLOURS = {
    "eager": "#e69f00",
    "eager channels_last": "#009e73",
    "torch.compile": "#cc79a7",
    "ONNX Runtime": "#d55e00",
    "OpenVINO": "#56b4e9",
}
# The ops of an anatomy in their order, again for the colour-blind (Okabe and Ito).
OP_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
BEYOND_THE_FLOOR = 0.4  # opacity of the time above an op's floor

TIMED = ("times",)  # stages whose results are tables
FRESH_TITLE = "peak memory and first call, in a process of their own"
PEAKS_TITLE = "peak memory"
ANATOMY_TITLE = "where the time goes"
REST = "Python between the layers"
HIGHLIGHTED = 3  # of an anatomy's rows, those that take the longest


def render(results: Results) -> str:
    """Return a whole run as text: the machine, a table per group of workloads, losses, workloads without a number."""
    parts = [_heading(results)]
    for title, rows in results.tables().items():
        parts.append(f"## {title}\n\n" + table(rows, results.ceilings))
        parts += [_losses(row) for row in rows if "losses" in row.notes]
    title, fresh_rows = fresh(results)
    if fresh_rows:
        parts.append(f"## {title}\n\n{fresh_rows}")
    parts += [
        f"## {ANATOMY_TITLE}, {one.title}\n\n{anatomy(one, results.ceilings)}" for one in results.anatomy
    ]
    if results.stages:
        parts.append("## stages of the campaign\n\n" + "\n".join(_stages(results.stages)))
    if results.without_number:
        lines = [f"- {name}: {reason}" for name, reason in results.without_number.items()]
        parts.append("## without a number\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def table(rows: Sequence[Row], ceilings: Ceilings) -> str:
    """Return a Markdown table: ours and each peer in milliseconds, ratio to the best peer, fraction of the roofline."""
    variants = list(dict.fromkeys(name for row in rows for name in row.times))
    noted = dict.fromkeys(key for row in rows for key in row.notes)
    header = ["workload", *(f"{v} ms" for v in variants), "ratio to best peer", "of roofline", "spread"]
    header += ["ours ran on"] if "backend" in noted else []
    header += [f"{v}: of the whole" for v in variants] if "share_of_whole" in noted else []
    lines = []
    for row in rows:
        ours, share = row.times[OURS], row.roofline_share(ceilings)
        cells = [row.name, *(number(row.times[v].median) if v in row.times else "-" for v in variants)]
        cells += [f"{row.ratio:.2f}x {row.best_peer}", "-" if share is None else f"{share:.0%}"]
        cells += [f"{(ours.high - ours.low) / ours.median:.0%}"]
        if "backend" in noted:
            cells.append(row.notes.get("backend", "-"))
        if "share_of_whole" in noted:
            shares = row.notes.get("share_of_whole", {})
            cells += [f"{shares[v]:.1%}" if v in shares else "-" for v in variants]
        lines.append(cells)
    return aligned([header, *lines])


def fresh(run: Results) -> tuple[str, str]:
    """Return title and table of peak memory and, on a CPU, first calls; the table is empty if nothing was measured.

    The variants on a GPU share a process, and the first of them also starts the GPU: first calls do not compare.
    """
    if is_on_gpu(run):
        return PEAKS_TITLE, fresh_table(run.rows, first_calls=False)
    return FRESH_TITLE, fresh_table(run.rows)


def fresh_table(rows: Sequence[Row], first_calls: bool = True) -> str:
    """Return a Markdown table of peak memory and, if wanted, first calls; empty if nothing was measured."""
    rows = [row for row in rows if "fresh" in row.notes]
    if not rows:
        return ""
    variants = list(dict.fromkeys(name for row in rows for name in row.notes["fresh"]))
    peers = [name for name in variants if name != OURS]
    header = ["workload", *(f"{v} peak MiB" for v in variants), *(f"ours of {v}" for v in peers)]
    timed = variants if first_calls else []
    lines = [header + [f"{v} {what}" for v in timed for what in ("first call ms", "first / warm")]]
    for row in rows:
        found = row.notes["fresh"]
        peaks = {name: run["peak_mib"] for name, run in found.items()}
        cells = [row.name, *("-" if peaks.get(v) is None else f"{peaks[v]:.0f}" for v in variants)]
        for name in peers:
            known = peaks.get(OURS) is not None and peaks.get(name)
            cells.append(f"{peaks[OURS] / peaks[name]:.0%}" if known else "-")
        for name in timed:
            run = found.get(name)
            first = ["-", "-"]
            if run is not None:
                first = [number(run["first_ms"]), f"{run['first_ms'] / run['warm_ms']:.1f}x"]
            cells += first
        lines.append(cells)
    return aligned(lines)


def anatomy(found: Anatomy, ceilings: Ceilings) -> str:
    """Return a sentence about the whole, and a Markdown table of its ops; the longest rows are bold."""
    whole, floor = found.whole_ms, sum(row.floor_ms(ceilings) for row in found.rows)
    times = [*(row.ms for row in found.rows), found.rest_ms]
    highlighted = sorted(range(len(times)), key=times.__getitem__)[-HIGHLIGHTED:]
    shares = [
        f"**{ms / whole:.0%}**" if i in highlighted else f"{ms / whole:.0%}" for i, ms in enumerate(times)
    ]
    lines = [["op and shape", "calls", "ms", "of the whole", "floor ms", "of roofline", "bound by"]]
    for row, share in zip(found.rows, shares, strict=False):
        low = row.floor_ms(ceilings)
        kind = "memory" if row.memory_ms(ceilings) >= row.arithmetic_ms(ceilings) else "arithmetic"
        ratio = f"{low / row.ms:.0%}"
        lines.append(
            [f"{row.op} {row.shapes}", str(row.calls), number(row.ms), share, number(low), ratio, kind]
        )
    lines.append([REST, "", number(found.rest_ms), shares[-1], "", "", ""])
    calls = str(sum(row.calls for row in found.rows))
    lines.append(["the whole", calls, number(whole), "100%", number(floor), f"{floor / whole:.0%}", ""])
    words = (
        f"`predict`, without clocks inside: {number(found.predict_ms)} ms in the same {found.rounds} rounds."
    )
    return f"{words}\n\n{aligned(lines)}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table, header first, padded so that it reads well as plain text too."""
    first, *others = ([line[column] for line in lines] for column in range(len(lines[0])))
    widths = [max(map(len, column)) for column in (first, *others)]
    columns = [[cell.ljust(widths[0]) for cell in first]]
    columns += [
        [cell.rjust(width) for cell in column] for column, width in zip(others, widths[1:], strict=True)
    ]
    header, *body = ("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))
    rule = "|" + "-" * (widths[0] + 2) + "".join("|" + "-" * (width + 1) + ":" for width in widths[1:]) + "|"
    return "\n".join([header, rule, *body])


def draw(results: Results, result_file: Path) -> list[Path]:
    """Draw all plots of a run beside its result file; return their paths."""
    paths = []
    for title, rows in results.tables().items():
        paths.append(plot_path(result_file, title))
        plot(title, rows, paths[-1])
    if results.anatomy:
        paths.append(plot_path(result_file, ANATOMY_TITLE))
        plot_anatomy(results.anatomy, results.ceilings, paths[-1])
    return paths


def plot(title: str, rows: Sequence[Row], path: Path) -> None:
    """Draw bars of how many times faster ours is than each peer, one group per workload, into a PNG."""
    from matplotlib.ticker import LogLocator, NullLocator

    peers = list(dict.fromkeys(name for row in rows for name in row.times if name != OURS))
    height = 0.8 / len(peers)
    names = [f"{row.name} ({number(row.times[OURS].median)} ms)" for row in rows]
    figure, axes = _bars(title, names, 1.6 + 0.15 * len(rows) * (len(peers) + 1))
    for index, peer in enumerate(peers):
        shift = (index - (len(peers) - 1) / 2) * height
        ratios = {
            i + shift: row.times[peer].median / row.times[OURS].median
            for i, row in enumerate(rows)
            if peer in row.times
        }
        colour = PEER_COLOURS.get(peer, OTHER_COLOUR)
        # to the right of 1 where ours is faster, to the left where it is slower
        lengths = [ratio - 1 for ratio in ratios.values()]
        bars = axes.barh(list(ratios), lengths, height, left=1, label=peer, color=colour)
        axes.bar_label(
            bars,
            [f"{ratio:.{0 if ratio >= 10 else 2}f}x" for ratio in ratios.values()],
            padding=2,
            fontsize=7,
        )
    axes.axvline(1, color=OURS_COLOUR, linewidth=1.5, label="ours")
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("time of the peer / time of ours: to the right of the line, ours is faster")
    _save(figure, path, len(peers) + 1)


def plot_anatomy(anatomies: Sequence[Anatomy], ceilings: Ceilings, path: Path) -> None:
    """Draw a bar per model, in which each op has its share, up to its floor in full colour, into a PNG."""
    names = [f"{one.title} ({number(one.whole_ms)} ms)" for one in anatomies]
    figure, axes = _bars(ANATOMY_TITLE, names, 1.6 + 0.45 * len(names))
    ops = list(dict.fromkeys(row.op for one in anatomies for row in one.rows))
    for place, one in enumerate(anatomies):
        left, share = 0.0, 100 / one.whole_ms
        for op, colour in zip(ops, itertools.cycle(OP_COLOURS), strict=False):
            rows = [row for row in one.rows if row.op == op]
            ms = sum(row.ms for row in rows)
            floor = min(ms, sum(row.floor_ms(ceilings) for row in rows))
            label = op if place == 0 else None
            axes.barh(place, floor * share, 0.7, left=left, color=colour, label=label)
            axes.barh(
                place,
                (ms - floor) * share,
                0.7,
                left=left + floor * share,
                color=colour,
                alpha=BEYOND_THE_FLOOR,
            )
            left += ms * share
        label = REST if place == 0 else None
        axes.barh(place, one.rest_ms * share, 0.7, left=left, color=OTHER_COLOUR, label=label)
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("of the whole, image to mask; full colour: the op's floor on this machine")
    _save(figure, path, 5)


def _bars(title: str, names: Sequence[str], height: float) -> tuple[Any, Any]:
    """Return a figure, ``height`` inches high, and its axes for horizontal bars: the first name is on top, at 0."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, height), layout="constrained")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path, columns: int) -> None:
    """Write a figure, with its legend of this many columns below it."""
    import matplotlib.pyplot as plt

    figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_path(result_file: Path, title: str) -> Path:
    """Return the path of a table's PNG, beside its result file."""
    return result_file.with_name(
        f"{result_file.stem}-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}.png"
    )


def measured_ceilings(ceilings: Ceilings) -> str:
    """Return the machine's rates in words."""
    copies = ", ".join(f"{rate:.0f} GB/s at {size >> 20} MiB" for size, rate in ceilings.copies)
    fma = "FMA not measured" if ceilings.fma is None else f"FMA {ceilings.fma:.0f} GFLOP/s"
    half = "" if ceilings.half_gemm is None else f", {ceilings.half_gemm:.0f} GFLOP/s bf16"
    for name, rate in (("vdpbf16ps", ceilings.dots), ("AMX bf16 tiles", ceilings.tiles)):
        half += "" if rate is None else f", {name} {rate:.0f} GFLOP/s"
    return f"{fma}, GEMM {ceilings.gemm:.0f} GFLOP/s fp32{half}; copy {copies}"


def _heading(results: Results) -> str:
    machine, ceilings = results.machine, results.ceilings
    versions = " ".join(f"{name} {version}" for name, version in machine["versions"].items())
    kernels = machine["kernel_instruction_set"] or "not built"
    return "\n".join(
        [
            f"{machine['device']}, {machine['threads']} threads on {machine['cores']}",
            f"{machine['date']}, commit {machine['commit']}",
            f"kernels: {kernels}, backend {machine['backend']}; {versions}",
            f"ceilings, measured: {measured_ceilings(ceilings) if ceilings.copies else 'not yet'}",
            "times: medians of interleaved rounds; spread: interquartile range of ours over its median",
            "roofline: the larger of FLOPs at the arithmetic ceiling and modelled (not counted) bytes, each",
            "input read once and each output written once, at the copy ceiling of that size; over our time",
        ]
    )


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line per stage, and below it each job that found nothing wrong and has something to say."""
    lines = []
    for name, record in stages.items():
        lines.append(f"- {name}: {record['status']}, {record['seconds']:.0f} s")
        lines += [
            f"  - {job}: {finding['says']}"
            for job, finding in record["findings"].items()
            if isinstance(finding, dict) and finding.get("ok") and finding.get("says") and name not in TIMED
        ]
    return lines


def _losses(row: Row) -> str:
    losses: dict[str, list[float]] = row.notes["losses"]
    lines = [f"- {v}: {' '.join(f'{value:.4f}' for value in values)}" for v, values in losses.items()]
    return f"losses, {row.name}, step by step:\n" + "\n".join(lines)


def number(value: float) -> str:
    """Return a number without exponent: about three significant digits, at most three decimals."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def main(arguments: Any = None) -> None:
    """Entry point of `python -m bench.report`."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument(
        "file", nargs="?", type=Path, help="a result file; default: the newest of all machines"
    )
    parser.add_argument("--no-plots", action="store_true", help="print the tables only")
    options = parser.parse_args(arguments)
    try:
        path = options.file or newest()
        results = read(path)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(render(results))
    if not options.no_plots:
        for drawn in draw(results, path):
            print(f"\nwrote {drawn}")


if __name__ == "__main__":
    main()
