"""Shows the tables and plots of a result file: `python -m bench.report [FILE]` takes the newest, or the one named.

The tables are Markdown; the plots are PNG files beside the result file, one per table.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results import OURS, Results, Row, newest, read
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

TIMED = ("times",)  # stages whose results are tables
FRESH_TITLE = "peak memory and first call, in a process of their own"


def render(results: Results) -> str:
    """Return a whole run as text: the machine, a table per group of workloads, losses, workloads without a number."""
    parts = [_heading(results)]
    for title, rows in results.tables().items():
        parts.append(f"## {title}\n\n" + table(rows, results.ceilings))
        parts += [_losses(row) for row in rows if "losses" in row.notes]
    if fresh := fresh_table(results.rows):
        parts.append(f"## {FRESH_TITLE}\n\n{fresh}")
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


def fresh_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of what was measured in processes of their own; empty if nothing was."""
    rows = [row for row in rows if "fresh" in row.notes]
    if not rows:
        return ""
    variants = list(dict.fromkeys(name for row in rows for name in row.notes["fresh"]))
    peers = [name for name in variants if name != OURS]
    header = ["workload", *(f"{v} peak MiB" for v in variants), *(f"ours of {v}" for v in peers)]
    lines = [header + [f"{v} {what}" for v in variants for what in ("first call ms", "first / warm")]]
    for row in rows:
        fresh = row.notes["fresh"]
        peaks = {name: run["peak_mib"] for name, run in fresh.items()}
        cells = [row.name, *("-" if peaks.get(v) is None else f"{peaks[v]:.0f}" for v in variants)]
        for name in peers:
            known = peaks.get(OURS) is not None and peaks.get(name)
            cells.append(f"{peaks[OURS] / peaks[name]:.0%}" if known else "-")
        for name in variants:
            run = fresh.get(name)
            first = ["-", "-"]
            if run is not None:
                first = [number(run["first_ms"]), f"{run['first_ms'] / run['warm_ms']:.1f}x"]
            cells += first
        lines.append(cells)
    return aligned(lines)


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


def plot(title: str, rows: Sequence[Row], path: Path) -> None:
    """Draw bars of how many times faster ours is than each peer, one group per workload, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    peers = list(dict.fromkeys(name for row in rows for name in row.times if name != OURS))
    height = 0.8 / len(peers)
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.15 * len(rows) * (len(peers) + 1)), layout="constrained")
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
    axes.tick_params(axis="x", labelsize=8)
    names = [f"{row.name} ({number(row.times[OURS].median)} ms)" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("time of the peer / time of ours: to the right of the line, ours is faster")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(peers) + 1, fontsize=8, frameon=False)
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
        for title, rows in results.tables().items():
            plot(title, rows, plot_path(path, title))
            print(f"\nwrote {plot_path(path, title)}")


if __name__ == "__main__":
    main()
