"""Draws a confusion matrix: which class is taken for which."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from segnext.drawing.fonts import legible
from segnext.evaluation.metrics import ConfusionMatrix

NUMBERED = 25  # classes up to which each cell has room for its number
CELL = (
    0.42,
    0.16,
)  # inches of a cell's side: with its number, and without; a name of 7 points fits beside either
INK_TURNS = 0.36  # a cell of a larger share is so dark that its number is white
DPI = 130


def require_matplotlib() -> None:
    """Raise an ImportError that says what to install, before anything is computed for a picture."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'confusion: matplotlib must be installed to draw the matrix, got "{error}"; install segnext with the '
            "extra train, or: pip install matplotlib"
        ) from None


def confusion_picture(confusion: ConfusionMatrix, classes: Sequence[str]) -> bytes:
    """Return a PNG of the matrix with each row divided by its sum; a row without pixels is gray.

    Args:
        confusion: counts of K classes.
        classes: K names; those with letters that matplotlib's font lacks are shown by their id.

    Raises:
        ImportError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    shares = _row_shares(confusion)
    count = len(classes)
    side = count * CELL[count > NUMBERED] + 3  # the rest is for names, titles and the scale
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"share of each true class's pixels in percent; mIoU {confusion.miou:.4f}", fontsize=9)
    colours = colormaps["Blues"].with_extremes(bad="0.85")
    # The root, since most confusions are a few percent, which would be as white as none.
    drawn = axes.imshow(100 * shares, cmap=colours, norm=PowerNorm(0.5, vmin=0, vmax=100))
    names = [_shown(name, index) for index, name in enumerate(classes)]
    axes.set_xticks(range(count), names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=7, parse_math=False)
    if count <= NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.0005:
                ink = "white" if share > INK_TURNS else "black"
                axes.text(column, row, _percent(share), ha="center", va="center", fontsize=6, color=ink)
    figure.colorbar(drawn, ax=axes, shrink=0.5).ax.tick_params(labelsize=7)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=DPI, format="png")
    return picture.getvalue()


def _row_shares(confusion: ConfusionMatrix) -> np.ndarray:
    """Return (K, K) shares 0..1; NaN in the row of a class without pixels."""
    counts = confusion.counts.double()
    return (counts / counts.sum(1, keepdim=True)).numpy()


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}"


def _shown(name: str, class_id: int) -> str:
    from matplotlib import font_manager

    text = legible(name)
    letters = font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    return text if text and all(ord(letter) in letters for letter in text) else f"class {class_id}"
