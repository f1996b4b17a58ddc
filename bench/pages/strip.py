"""The drawings and the table of docs/strip_convolution.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bench import report, results
from bench.newest import is_on_gpu, measured_on, newest_runs, on_cpu
from bench.pages.svg import FAINT, INK, OTHER, OURS, THIRD, Bar, Group, bar_chart, drawing, text
from segnext_kernels.spec import STRIPS

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
ROOT = 5
# kQuad, kColumns and kRun of csrc/ops/msca_conv/strips.h with 32 registers: the rows that the CPU kernel makes at once;
# the pixels of a register tile, for root and columns; the same, for row strips
QUAD, COLUMNS, RUN = 4, 4, 12
REACHES = [-(-(k // 2) // QUAD) for k in STRIPS]  # quads that each column strip reaches up and down
SHAPE = "t1-c32-h128w128"
CELL = 7
PEERS = {"eager": "eager", "eager channels_last": "eager, channels_last"}


def plots() -> dict[Path, str]:
    """Return the drawings."""
    return {
        FIGURES / "strip_taps.svg": taps(),
        FIGURES / "strip_times.svg": times(),
        FIGURES / "strip_rings.svg": rings(),
        FIGURES / "strip_loads.svg": loads(),
        FIGURES / "strip_halo.svg": halo(),
        FIGURES / "strip_share.svg": shares(),
    }


def taps() -> str:
    """Draw which pixels each convolution reads for one output."""
    parts = [text(20, 30, "What one output reads", 16, weight=600)]
    left = 24.0
    kernels = [("root 5x5", ROOT, ROOT), *((f"1x{k}, then {k}x1", k, 0) for k in STRIPS)]
    for label, columns, rows in kernels:
        side = columns * CELL
        room = max(side, 148)
        left += (room - side) / 2
        top = 62 + (STRIPS[-1] * CELL - side) / 2
        for row, column in _cells(columns):
            colour = OURS if rows or row == columns // 2 else THIRD if column == columns // 2 else "#eef0f2"
            parts.append(
                f'<rect x="{left + column * CELL:.1f}" y="{top + row * CELL:.1f}" width="{CELL - 1}" '
                f'height="{CELL - 1}" fill="{colour}"/>'
            )
        parts.append(text(left + side / 2, 62 + STRIPS[-1] * CELL + 22, label, 13, anchor="middle"))
        taps_of = columns * rows or 2 * columns
        seen = columns * columns
        parts.append(
            text(
                left + side / 2,
                62 + STRIPS[-1] * CELL + 40,
                f"{taps_of} taps see {seen} pixels",
                12,
                FAINT,
                anchor="middle",
            )
        )
        left += (side + room) / 2 + 38
    height = 62 + STRIPS[-1] * CELL + 64
    parts.append(
        text(
            20,
            height - 4,
            "blue: along a row (the root: all); orange: along a column of those results",
            12,
            FAINT,
        )
    )
    return drawing("What one output of msca_conv reads", height + 14, parts)


def _cells(side: int) -> Iterator[tuple[int, int]]:
    return ((row, column) for row in range(side) for column in range(side))


def _row(device_is_gpu: bool = False) -> tuple[results.Results, results.Row]:
    for _, run in newest_runs():
        for row in run.rows:
            if (
                is_on_gpu(run) == device_is_gpu
                and row.table == "ops, forward"
                and row.name == f"msca_conv {SHAPE}"
            ):
                return run, row
    raise ValueError(f"bench.pages.strip: bench/results must have msca_conv {SHAPE}, found none")


def times() -> str:
    """Draw PyTorch's times, ours, and the two floors on the first CPU."""
    run, row = _row()
    arithmetic = run.ceilings.floor_ms(row.flops, None) or 0.0
    memory = run.ceilings.floor_ms(None, row.bytes_moved) or 0.0
    bars = [
        _timed(PEERS.get(name, name), row.times[name].median, OTHER)
        for name in row.times
        if name != results.OURS
    ]
    bars.append(_timed("msca_conv", row.times[results.OURS].median, OURS, is_bold=True))
    bars.append(_timed("floor of the arithmetic", arithmetic, THIRD))
    bars.append(_timed("floor of the memory", memory, THIRD))
    return bar_chart(
        "msca_conv of a map 32x128x128, milliseconds",
        [Group("", bars)],
        note=on_cpu(run),
    )


def _timed(label: str, ms: float, colour: str, is_bold: bool = False) -> Bar:
    return Bar(label, [(ms, colour)], report.number(ms), is_bold)


def rings() -> str:
    """Draw what the CPU kernel keeps while it goes down the image."""
    ahead, newest = max(REACHES), 9
    output = newest - ahead
    kept = [("x", newest - 1, newest, OTHER), ("a = root(x)", output, newest, OURS)]
    kept += [
        (f"row strip {k}", output - reach, output + reach, THIRD)
        for k, reach in zip(STRIPS, REACHES, strict=True)
    ]
    parts = [text(20, 30, "What is kept on the way down, in quads of four rows", 16, weight=600)]
    top, unit, left = 66, 17, 150.0
    for label, first, last, colour in kept:
        parts.append(text(left + 40, top - 10, label, 13, weight=600, anchor="middle"))
        down = unit / 2 if label == "x" else 0  # the root reaches two rows beyond the newest of its results
        for quad in range(newest + 1):
            fill = colour if first <= quad <= last else "#eef0f2"
            parts.append(
                f'<rect x="{left}" y="{top + quad * unit + down}" width="80" height="{unit - 2}" rx="2" '
                f'fill="{fill}"/>'
            )
        rows = f"{(last - first + 1) * QUAD} rows"
        parts.append(text(left + 40, top + (newest + 1) * unit + 24, rows, 12, FAINT, anchor="middle"))
        left += 120
    y = top + output * unit + unit / 2 - 1
    parts.append(f'<path d="M 20 {y} H {left - 40}" stroke="{INK}" stroke-width="1" stroke-dasharray="3 3"/>')
    parts.append(text(20, y - 6, "rows that leave now", 12))
    parts.append(text(20, top + newest * unit + 11, "newest rows", 12))
    height = top + (newest + 1) * unit + 52
    said = "coloured: in the second-level cache; gray: not there any more, or not yet"
    parts.append(text(20, height, said, 12, FAINT))
    return drawing("What the CPU kernel keeps on its way down the image", height + 18, parts)


def loads() -> str:
    """Draw the vector loads per multiply-add: of register tiles, and of the parts of the CPU kernel."""
    longest = STRIPS[-1]
    tiles = [("one output", 2.0)]
    tiles += [(f"{QUAD} rows x {pixels}", column_loads(longest, pixels)) for pixels in (1, 2, COLUMNS)]
    parts = [("root", column_loads(ROOT)), ("row strips", ROW_LOADS)]
    parts += [(f"column strip {k}", column_loads(k)) for k in STRIPS]
    parts.append(("all", all_loads()))

    def bars(kinds: list[tuple[str, float]]) -> list[Bar]:
        last = len(kinds) - 1
        return [
            Bar(label, [(value, OURS if i == last else OTHER)], f"{value:.2f}", i == last)
            for i, (label, value) in enumerate(kinds)
        ]

    return bar_chart(
        "Vector loads per multiply-add",
        [
            Group(f"A column strip of {longest} taps, by the size of the tile", bars(tiles)),
            Group("The parts of the kernel, with 32 registers", bars(parts)),
        ],
        note="A tile of R rows by P pixels loads (K + R - 1) P inputs and R K weights for R K P multiply-adds.",
    )


def column_loads(taps: int, pixels: int = COLUMNS) -> float:
    """Return the loads per multiply-add of a register tile of a column strip."""
    return ((taps + QUAD - 1) * pixels + QUAD * taps) / (QUAD * taps * pixels)


ROW_LOADS = (RUN + 1) / RUN  # each tap of a row strip loads one weight, and each of its pixels


def all_loads() -> float:
    """Return the loads per multiply-add of the whole CPU kernel."""
    total = ROOT**2 * column_loads(ROOT) + sum(k * (ROW_LOADS + column_loads(k)) for k in STRIPS)
    return total / multiply_adds()


def multiply_adds(rows: float = float("inf"), columns: float = float("inf")) -> float:
    """Return the CPU kernel's multiply-adds per element of a part of a large map, with what its neighbours make too.

    Args:
        rows: of the part. `a` is made for as many quads above and below as the longest column strip reaches, and each
            row strip for as many as its own column strip reaches.
        columns: of the part. `a` is made for as many columns left and right as the longest row strip reaches.
    """
    root = ROOT**2 * (1 + 2 * max(REACHES) * QUAD / rows) * (1 + 2 * (STRIPS[-1] // 2) / columns)
    strips = sum(k * (1 + 2 * reach * QUAD / rows) + k for k, reach in zip(STRIPS, REACHES, strict=True))
    return root + strips


def halo() -> str:
    """Draw how many multiply-adds a part of a map costs, by its size."""
    whole = multiply_adds()

    def bar(label: str, count: float) -> Bar:
        parts = [(whole, OURS), (count - whole, THIRD)]
        said = f"{count:.0f}" if count == whole else f"{count:.0f}, {100 * (count / whole - 1):.0f} % more"
        return Bar(label, parts, said, count == whole)

    return bar_chart(
        "Multiply-adds per element, when a map is cut",
        [
            Group("", [bar("whole map", whole)]),
            Group(
                "Columns, for the cache",
                [bar(f"{n} columns", multiply_adds(columns=n)) for n in (128, 64, 32, 16)],
            ),
            Group(
                "Rows, for more threads", [bar(f"{n} rows", multiply_adds(rows=n)) for n in (128, 64, 32, 16)]
            ),
        ],
        [(OURS, "its own"), (THIRD, "its neighbours make them too")],
        "An inner part of a large map, by the steps of strips.h; a count, no measurement.",
    )


def shares() -> str:
    """Draw the share of the floor at each shape, on each machine."""
    groups = []
    for run, rows in _runs():
        bars = []
        for row in rows:
            share = row.roofline_share(run.ceilings) or 0.0
            text_ = f"{100 * share:.0f} %  {report.number(row.times[results.OURS].median)} ms"
            bars.append(
                Bar(row.name.removeprefix("msca_conv ").removesuffix(", cuda"), [(share, OURS)], text_)
            )
        groups.append(Group(f"{run.machine['device']}, commit {run.machine['commit']}", bars))
    return bar_chart("Share of the floor that msca_conv reaches", groups)


def _runs() -> Iterator[tuple[results.Results, list[results.Row]]]:
    for _, run in newest_runs():
        rows = [row for row in run.rows if row.table == "ops, forward" and row.name.startswith("msca_conv ")]
        if rows := [row for row in rows if not row.name.endswith("triton")]:
            yield run, rows


def table() -> str:
    """Return time, both floors and the share of the larger one for every shape and machine."""
    parts = []
    for run, rows in _runs():
        lines = [["map", "ms", "PyTorch ms", "floor: arithmetic", "floor: memory", "share"]]
        for row in rows:
            arithmetic = run.ceilings.floor_ms(row.flops, None, row.tensor_cores) or 0.0
            memory = run.ceilings.floor_ms(None, row.bytes_moved) or 0.0
            lines.append(
                [
                    row.name.removeprefix("msca_conv "),
                    report.number(row.times[results.OURS].median),
                    report.number(row.times[row.best_peer].median),
                    report.number(arithmetic),
                    report.number(memory),
                    f"{100 * (row.roofline_share(run.ceilings) or 0):.0f} %",
                ]
            )
        parts.append(f"{measured_on(run)}:\n\n{report.aligned(lines)}")
    return "\n\n".join(parts)


def floors() -> str:
    """Return how the two floors of the drawn map compare."""
    run, row = _row()
    arithmetic = run.ceilings.floor_ms(row.flops, None) or 0.0
    memory = run.ceilings.floor_ms(None, row.bytes_moved) or 0.0
    far = row.bytes_moved / (max(run.ceilings.copies)[1] * 1e6)
    return (
        f"So a fused kernel is bound by arithmetic. For this map on the {run.machine['device']}, the arithmetic takes "
        f"{arithmetic / memory:.0f} times as\nlong as a copy of the map within the caches, and {arithmetic / far:.1f} "
        "times as long as a copy from main memory."
    )


def gradients() -> str:
    """Return the times of forward and backward at the drawn map, on each machine."""
    lines = [["machine", "map", "ms", "PyTorch ms", "times as fast"]]
    for _, run in newest_runs():
        for row in run.rows:
            is_asked = row.name.startswith(f"msca_conv {SHAPE}") and not row.name.endswith("triton")
            if row.table == "ops, forward + backward" and is_asked:
                ours, peer = row.times[results.OURS].median, row.times[row.best_peer].median
                name = row.name.removeprefix("msca_conv ").removesuffix(", cuda")
                numbers = [report.number(ours), report.number(peer), f"{peer / ours:.1f}"]
                lines.append([run.machine["device"], name, *numbers])
    return report.aligned(lines)


PARTS: dict[str, Callable[[], str]] = {"strip floors": floors, "strip gradient": gradients, "strip": table}
