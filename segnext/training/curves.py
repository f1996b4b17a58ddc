"""Draws the loss and the evaluations of a run as curves, if matplotlib is installed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from segnext.training.records import column

CURVES = "curves.png"


def draw_curves(
    rows: Sequence[Mapping[str, str]], title: str, steps: int, measure: str, name: str
) -> bytes | None:
    """Return the curves as a PNG; None without matplotlib.

    Args:
        rows: of results.csv.
        title: stands above the curves.
        steps: length of the run.
        measure: the column of an evaluation's first measure.
        name: what it is called.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", xlim=(0, steps))
    axes.set_title(title, parse_math=False)
    axes.plot(*column(rows, "loss"), color="tab:blue")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("training loss", color="tab:blue")
    axes.grid(alpha=0.3)
    evaluated, values = column(rows, measure)
    if values:
        right = axes.twinx()
        right.plot(evaluated, values, color="tab:orange", marker="o", clip_on=False)
        right.set_ylim(0, 1)
        right.set_ylabel(f"val {name}, now {values[-1]:.3f}", color="tab:orange")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    return picture.getvalue()
