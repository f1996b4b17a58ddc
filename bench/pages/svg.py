"""Draws bars as SVG text: the same bytes on every machine, readable on white and on dark paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 760
OURS, OTHER, THIRD = "#2563c9", "#9aa3ad", "#d97f28"
INK, FAINT, PAPER, LINE = "#1d2126", "#5f6872", "#ffffff", "#dfe2e5"
_FONT = "ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
_LETTER = 0.63  # width of a letter, on average, as a part of its height


@dataclass(frozen=True)
class Bar:
    """A bar: its length in parts, each with a colour, and the text behind it."""

    label: str
    parts: Sequence[tuple[float, str]]
    text: str
    is_bold: bool = False


@dataclass(frozen=True)
class Group:
    """Bars below one title; they share a scale with the other groups unless `own_scale`."""

    title: str
    bars: Sequence[Bar]
    own_scale: bool = False


def bar_chart(
    title: str, groups: Sequence[Group], legend: Sequence[tuple[str, str]] = (), note: str = ""
) -> str:
    """Return a drawing of horizontal bars.

    Args:
        title: what is measured, with its unit.
        groups: from top to bottom.
        legend: (colour, meaning).
        note: a line below.
    """
    bars = [bar for group in groups for bar in group.bars]
    left = 30 + max(round(len(bar.label) * 13 * _LETTER) for bar in bars)
    right = 20 + max(round(len(bar.text) * 12.5 * _LETTER) for bar in bars)
    room = WIDTH - left - right - 16
    longest = max(_length(bar) for bar in bars)
    parts, y = [text(20, 30, title, 16, weight=600)], 48
    if legend:
        x = 20
        for colour, meaning in legend:
            parts.append(f'<rect x="{x}" y="{y - 2}" width="12" height="12" rx="2" fill="{colour}"/>')
            parts.append(text(x + 18, y + 8.5, meaning, 12.5, FAINT))
            x += 36 + round(len(meaning) * 12.5 * _LETTER)
        y += 24
    for group in groups:
        if group.title:
            y += 14
            parts.append(text(20, y + 4, group.title, 13.5, weight=600))
            y += 12
        scale = room / (max(map(_length, group.bars)) if group.own_scale else longest)
        for bar in group.bars:
            weight = 600 if bar.is_bold else 400
            parts.append(text(left - 10, y + 13.5, bar.label, 13, weight=weight, anchor="end"))
            x = float(left)
            for value, colour in bar.parts:
                width = max(value * scale, 1.5 if value else 0)
                parts.append(
                    f'<rect x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="14" rx="2" fill="{colour}"/>'
                )
                x += width
            parts.append(text(x + 8, y + 13.5, bar.text, 12.5, INK if bar.is_bold else FAINT, weight))
            y += 22
    if note:
        y += 20
        parts.append(text(20, y, note, 12, FAINT))
    return drawing(title, round(y + 20), parts)


def _length(bar: Bar) -> float:
    return sum(value for value, _ in bar.parts)


def text(
    x: float, y: float, words: str, size: float, colour: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    """Return words at a place; `anchor` is start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def drawing(title: str, height: int, parts: Sequence[str]) -> str:
    """Return a whole drawing of WIDTH x height on its own paper."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'font-family="{_FONT}" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10" fill="{PAPER}" '
            f'stroke="{LINE}"/>',
            *parts,
            "</svg>\n",
        ]
    )
