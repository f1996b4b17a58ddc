"""The drawing of docs/design.md: which part uses which. tests/packaging/test_arrows.py holds it to the imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.pages.svg import FAINT, INK, OTHER, OURS, drawing, text

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
# parts of segnext, the lowest first: each uses only those of lower floors
FLOORS = (
    ("device", "heartbeat", "locks", "one_line", "signals"),
    ("atomic", "ranks", "safe_yaml"),
    ("models", "drawing"),
    ("data",),
    ("weights",),
    ("create", "deployment", "measure"),
    ("export",),
    ("predict", "patching"),
    ("integrations", "serve", "film"),
    ("evaluation",),
    ("training",),
)
TOP = "cli"
BESIDE = (("tests", 88), ("bench", 206), ("oracle", 324))  # name, top
LEFT, RIGHT, FLOOR, GAP = 20.0, 520.0, 30, 6


def plots() -> dict[Path, str]:
    """Return the drawing."""
    return {FIGURES / "arrows.svg": arrows()}


def arrows() -> str:
    """Draw the floors of segnext above the operators and their sources, and what uses all of them beside."""
    parts = [text(20, 30, "Which part uses which: an arrow means “is used by”", 16, weight=600)]
    floors = ((TOP,), *reversed(FLOORS))
    y = 58
    height = 34 + len(floors) * (FLOOR + GAP) + 6
    parts += [_frame(LEFT, y, RIGHT - LEFT, height, OURS), text(LEFT + 14, y + 22, "segnext", 14, weight=600)]
    parts.append(text(RIGHT - 14, y + 22, "each floor uses those below it", 12, FAINT, anchor="end"))
    y += 34
    for names in floors:
        parts += _floor(names, y)
        y += FLOOR + GAP
    y += 6
    below = (("segnext_kernels", "the operators; useful alone"), ("csrc", "C++ and CUDA; no header of torch"))
    for name, said in below:
        parts.append(_arrow((LEFT + RIGHT) / 2, y + 24, (LEFT + RIGHT) / 2, y + 3))
        y += 26
        parts += [
            _frame(LEFT, y, RIGHT - LEFT, 40, OURS),
            text(LEFT + 14, y + 25, name, 14, weight=600),
            text(RIGHT - 14, y + 25, said, 12, FAINT, anchor="end"),
        ]
        y += 40
    kernels = y - 66 - 20  # the middle of segnext_kernels
    parts += _beside(kernels)
    return drawing("Which part of the code uses which", round(y + 20), parts)


def _floor(names: Sequence[str], y: float) -> list[str]:
    room = RIGHT - LEFT - 28
    width = (room - GAP * (len(names) - 1)) / len(names)
    parts = []
    for place, name in enumerate(names):
        x = LEFT + 14 + place * (width + GAP)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{FLOOR}" rx="4" fill="#eaf0fb"/>'
        )
        parts.append(text(x + width / 2, y + 20, name, 13, anchor="middle"))
    return parts


def _beside(kernels: float) -> list[str]:
    """Return tests, bench and oracle; the height of segnext_kernels is where the lowest arrow begins."""
    left, width = 590.0, 150.0
    middle = left + width / 2
    parts = []
    for name, y in BESIDE:
        parts += [
            _frame(left, y, width, 44, OTHER),
            text(middle, y + 27, name, 14, weight=600, anchor="middle"),
        ]
    (_, tests), (_, bench), (_, oracle) = BESIDE
    parts += [_arrow(middle, bench - 2, middle, tests + 47), _arrow(middle, oracle - 2, middle, bench + 47)]
    parts += [_arrow(RIGHT + 4, y + 22, left - 4, y + 22) for y in (tests, bench)]
    parts.append(
        f'<path d="M {RIGHT + 4} {kernels:.1f} H {middle} V {oracle + 56}" fill="none" stroke="{INK}" '
        f'stroke-width="1.4"/>'
    )
    parts.append(_arrow(middle, oracle + 57, middle, oracle + 47))
    return parts


def _frame(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="8" fill="none" '
        f'stroke="{colour}" stroke-width="1.4"/>'
    )


def _arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    """Return a line with its head at (x1, y1), along one axis."""
    back, side = 7, 4
    if x0 == x1:
        away = back if y0 > y1 else -back
        head = f"{x1 - side:.1f},{y1 + away:.1f} {x1 + side:.1f},{y1 + away:.1f}"
    else:
        away = back if x0 > x1 else -back
        head = f"{x1 + away:.1f},{y1 - side:.1f} {x1 + away:.1f},{y1 + side:.1f}"
    line = f'<path d="M {x0:.1f} {y0:.1f} L {x1:.1f} {y1:.1f}" stroke="{INK}" stroke-width="1.4"/>'
    return f'{line}\n<polygon points="{x1:.1f},{y1:.1f} {head}" fill="{INK}"/>'
