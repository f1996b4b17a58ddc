"""Records a run: results.csv, curves.png if matplotlib is installed, and lines on the terminal."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

RESULTS, CURVES = "results.csv", "curves.png"
COLUMNS = ("step", "loss", "learning_rate", "images_per_second", "val_miou", "val_pixel_accuracy")


class RunLog:
    """Writes `results.csv` in `folder`: one row per `every` steps and one per evaluation.

    On a terminal a progress line shows the latest numbers; elsewhere each row is also printed.

    Args:
        folder: the run's folder.
        steps: length of the run.
        first_step: steps that are done; rows of later steps, from an interrupted session, are dropped.
        every: steps whose loss is averaged into one row.
        losses: those since the last row; changed in place, so that a checkpoint can hold them.
        console: where to print.
    """

    def __init__(
        self, folder: Path, steps: int, first_step: int, every: int, losses: list[float], console: Console
    ) -> None:
        self.path = folder / RESULTS
        self.steps = steps
        self.every = every
        self.losses = losses
        self.console = console
        self._images = 0
        self._seconds = 0.0
        rows = [row for row in _read_rows(self.path) if int(row["step"]) <= first_step]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=steps, completed=first_step)

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if kind is None:
            self._plot()

    def note(self, text: str) -> None:
        """Print one line above the progress."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def training(self, step: int, loss: float, learning_rate: float, images: int, seconds: float) -> None:
        """Record one step: `step` steps are done, and this one took `seconds` for `images` images."""
        self.losses.append(loss)
        self._images += images
        self._seconds += seconds
        self._progress.update(self._task, completed=step)
        if step % self.every and step != self.steps:
            return
        counted = [
            value for value in self.losses if not math.isnan(value)
        ]  # a batch without labels has the loss NaN
        mean = sum(counted) / len(counted) if counted else math.nan
        speed = self._images / self._seconds
        self._append(step, f"{mean:.5f}", f"{learning_rate:.4g}", f"{speed:.2f}", "", "")
        text = f"loss {mean:.4f}  lr {learning_rate:.2e}  {speed:.1f} images/s"
        self._progress.update(self._task, description=text)
        if not self.console.is_terminal:
            self.note(f"step {step}/{self.steps}  {text}")
        self.losses.clear()
        self._images, self._seconds = 0, 0.0

    def evaluation(self, step: int, miou: float, pixel_accuracy: float, seconds: float) -> None:
        """Record an evaluation on the validation split."""
        self._append(step, "", "", "", f"{miou:.5f}", f"{pixel_accuracy:.5f}")
        self.note(
            f"step {step}/{self.steps}  val mIoU {miou:.4f}  pixel accuracy {pixel_accuracy:.4f}  "
            f"({seconds:.0f} s)"
        )
        if step < self.steps:  # `__exit__` plots the last one
            self._plot()

    def _append(self, *values: object) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(values)

    def _plot(self) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return
        rows = _read_rows(self.path)
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="step", xlim=(0, self.steps))
        axes.set_title(self.path.parent.resolve().name, parse_math=False)
        axes.plot(*_column(rows, "loss"), color="tab:blue")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("training loss", color="tab:blue")
        axes.grid(alpha=0.3)
        steps, values = _column(rows, "val_miou")
        if values:
            right = axes.twinx()
            right.plot(steps, values, color="tab:orange", marker="o", clip_on=False)
            right.set_ylim(0, 1)
            right.set_ylabel(f"val mIoU, now {values[-1]:.3f}", color="tab:orange")
        figure.savefig(self.path.with_name(CURVES), dpi=120)


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if (row.get("step") or "").isdecimal()]


def _column(rows: Sequence[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    filled = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    filled = [(step, value) for step, value in filled if math.isfinite(value)]
    return [step for step, _ in filled], [value for _, value in filled]
