"""Draws time to the mask against published accuracy, as PNG files beside the result file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bench.report import OTHER_COLOUR, OURS_COLOUR, plot_path
from bench.rivals.catalogue import NETWORKS

BY_NAME = {network.name: network for network in NETWORKS}
# size, and which published mIoU stands beside its times
PLOTS = {"512x512": ("ade20k", "ADE20K"), "1024x2048": ("cityscapes", "Cityscapes")}
LEAST_POINTS = 4
AREA = 6.0  # square points per million parameters
Place = tuple[int, int, float]  # across, up, distance from the disk in points
PLACES: tuple[Place, ...] = tuple(
    (across, up, far)
    for far in (3.0, 9.0, 18.0)
    for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
)
# distinct for the colour-blind too (Okabe and Ito)
COLOURS = {
    "SegNeXt": OURS_COLOUR,
    "SegFormer": "#d55e00",
    "UPerNet": "#cc79a7",
    "EoMT": "#000000",
    "real time": "#009e73",
}
EAGER_COLOUR = "#56b4e9"


def paths(result_file: Path) -> dict[str, Path]:
    """Return title and path of each plot, whether it exists or not."""
    titles = [f"time at {size}, mIoU on {name}" for size, (_, name) in PLOTS.items()]
    return {title: plot_path(result_file, title) for title in titles}


def draw(content: dict[str, Any], result_file: Path) -> list[Path]:
    """Draw each plot that has enough points; return their paths. Without matplotlib there are none."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    drawn = []
    for (title, path), (size, (accuracy, data_set)) in zip(
        paths(result_file).items(), PLOTS.items(), strict=True
    ):
        points = _points(content, size, accuracy)
        if len(points) >= LEAST_POINTS:
            _draw(title, points, data_set, path)
            drawn.append(path)
    return drawn


def _points(content: dict[str, Any], size: str, accuracy: str) -> list[dict[str, Any]]:
    """Return what a plot shows: of ours, the deployed and the eager form."""
    points = []
    for row in content["rows"]:
        network = BY_NAME.get(row["name"])
        if row["size"] != size or not row["times"] or network is None or network.form == "plain":
            continue
        cited = getattr(network, accuracy)
        if cited is not None:
            points.append(
                {
                    "name": row["name"],
                    "line": f"{network.family} {network.form}".strip(),
                    "ms": row["times"]["median"],
                    "miou": cited.value,
                    "millions": row["parameters"] / 1e6,
                    "colour": EAGER_COLOUR
                    if network.form == "eager"
                    else COLOURS.get(network.family, OTHER_COLOUR),
                    "is_ours": network.form == "deployed",
                }
            )
    return points


def _draw(title: str, points: list[dict[str, Any]], data_set: str, path: Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(figsize=(10, 6.5), layout="constrained")
    for line in dict.fromkeys(point["line"] for point in points):
        members = sorted((point for point in points if point["line"] == line), key=lambda point: point["ms"])
        ours = members[0]["is_ours"]
        if line.startswith(("SegNeXt", "SegFormer")):
            axes.plot(
                [point["ms"] for point in members],
                [point["miou"] for point in members],
                color=members[0]["colour"],
                linewidth=2.2 if ours else 1.0,
                zorder=2,
            )
        axes.scatter(
            [point["ms"] for point in members],
            [point["miou"] for point in members],
            s=[AREA * point["millions"] for point in members],
            color=members[0]["colour"],
            alpha=0.85 if ours else 0.45,
            edgecolors="black" if ours else "none",
            zorder=3,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12, y=0.12)
    axes.grid(True, alpha=0.2)
    axes.set_xlabel("milliseconds from image to mask, logarithmic")
    axes.set_ylabel(f"mIoU on the validation set of {data_set}, one scale, as published (%)")
    axes.set_title(f"{title}; area: parameters")
    axes.spines[["top", "right"]].set_visible(False)
    figure.canvas.draw()  # the names need the final scale
    _label(axes, points)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _label(axes: Any, points: list[dict[str, Any]]) -> None:
    """Name each point at the place beside it where its name covers the fewest points and other names."""
    from matplotlib.transforms import Bbox

    pixels = axes.figure.dpi / 72
    renderer = axes.figure.canvas.get_renderer()
    disks = []
    for point in points:
        x, y = axes.transData.transform((point["ms"], point["miou"]))
        radius = _radius(point) * pixels
        disks.append(Bbox([[x - radius, y - radius], [x + radius, y + radius]]))
    taken: list[Any] = []
    order = sorted(range(len(points)), key=lambda index: not points[index]["is_ours"])
    for index in order:
        point = points[index]
        text = axes.annotate(
            point["name"],
            (point["ms"], point["miou"]),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            weight="bold" if point["is_ours"] else "normal",
            zorder=4,
        )
        others = [disk for other, disk in enumerate(disks) if other != index] + taken

        def covered(place: Place, text: Any = text, point: Any = point, others: Any = others) -> int:
            _put(text, place, _radius(point))
            box = text.get_window_extent(renderer)
            outside = box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1
            return sum(box.overlaps(other) for other in others) + 3 * outside

        _put(text, min(PLACES, key=covered), _radius(point))
        taken.append(text.get_window_extent(renderer))


def _radius(point: dict[str, Any]) -> float:
    """Return the radius of a point's disk, in points."""
    return float((AREA * point["millions"] / math.pi) ** 0.5)


def _put(text: Any, place: Place, radius: float) -> None:
    """Put a name beside its disk."""
    across, up, far = place
    text.set_horizontalalignment({1: "left", -1: "right"}.get(across, "center"))
    text.set_verticalalignment({1: "bottom", -1: "top"}.get(up, "center"))
    distance = radius * (0.7 if across and up else 1) + far  # a corner of the name touches the disk
    text.xyann = (distance * across, distance * up)
