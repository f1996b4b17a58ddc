"""Records a run: results.csv, curves.png if matplotlib is installed, and lines on the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segnext.atomic import append_text, replace_bytes, replace_text, whole_lines
from segnext.training.patience import exhausted

RESULTS, CURVES = "results.csv", "curves.png"
COLUMNS = ("step", "loss", "learning_rate", "images_per_second")


class Measured(NamedTuple):
    """The two measures of an evaluation: their columns in results.csv, and their names."""

    columns: tuple[str, str]
    names: tuple[str, str]


SEGMENTATION = Measured(("val_miou", "val_pixel_accuracy"), ("mIoU", "pixel accuracy"))
CLASSIFICATION = Measured(("val_top1", "val_top5"), ("top-1", "top-5"))


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
        hold: keep the rows in memory and an earlier run's files as they are, until `begin` is called.
        measured: what an evaluation measures.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        first_step: int,
        every: int,
        losses: list[float],
        console: Console,
        *,
        hold: bool = False,
        measured: Measured = SEGMENTATION,
    ) -> None:
        self.path = folder / RESULTS
        self.steps = steps
        self.every = every
        self.losses = losses
        self.console = console
        self.measured = measured
        self._images = 0
        self._seconds = 0.0
        rows = [] if hold else [row for row in _read_rows(self.path) if int(row["step"]) <= first_step]
        self._measures = dict(zip(*_column(rows, measured.columns[0]), strict=True))
        columns = (*COLUMNS, *measured.columns)
        self._held: list[str] | None = [_line(columns)]
        self._held += [_line([row.get(name) or "" for name in columns]) for row in rows]
        if not hold:
            self.begin()
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

    def begin(self, path: Path | None = None) -> None:
        """Write the rows that were held back, to `path` if results.csv is still an earlier run's.

        From now on rows go to results.csv; whoever gave another path renames it before the next one.
        """
        if self._held is None:
            return
        replace_text(path or self.path, "".join(self._held))
        self._held = None

    def evaluated(self, step: int) -> bool:
        """Return whether there is a row of an evaluation at `step`."""
        return step in self._measures

    def exhausted(self, patience: int) -> str | None:
        """Return why the run ends early, see `segnext.training.patience`; None if it goes on."""
        return exhausted(self._measures, patience, self.measured.names[0])

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
        # Cleared first: whatever fails below, a checkpoint that is written then must not count them twice.
        self.losses.clear()
        self._images, self._seconds = 0, 0.0
        self._append(step, f"{mean:.5f}", f"{learning_rate:.4g}", f"{speed:.2f}", "", "")
        text = f"loss {mean:.4f}  lr {learning_rate:.2e}  {speed:.1f} images/s"
        self._progress.update(self._task, description=text)
        if not self.console.is_terminal:
            self.note(f"step {step}/{self.steps}  {text}")

    def evaluation(self, step: int, first: float, second: float, seconds: float) -> None:
        """Record an evaluation on the validation split: the two measures, for instance mIoU and pixel accuracy."""
        self._append(step, "", "", "", f"{first:.5f}", f"{second:.5f}")
        self._measures[step] = float(f"{first:.5f}")
        self.note(
            f"step {step}/{self.steps}  val {self.measured.names[0]} {first:.4f}  "
            f"{self.measured.names[1]} {second:.4f}  ({seconds:.0f} s)"
        )
        if step < self.steps:  # `__exit__` plots the last one
            self._plot()

    def _append(self, *values: object) -> None:
        if self._held is not None:
            self._held.append(_line(values))
        else:
            append_text(self.path, _line(values))

    def _plot(self) -> None:
        """Draw the curves; a picture that cannot be drawn must not end a run."""
        if self._held is not None:
            return
        try:
            self._draw()
        except Exception as error:
            self.note(f"{CURVES} was not drawn: {' '.join(str(error).split()) or type(error).__name__}")

    def _draw(self) -> None:
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
        steps, values = _column(rows, self.measured.columns[0])
        if values:
            right = axes.twinx()
            right.plot(steps, values, color="tab:orange", marker="o", clip_on=False)
            right.set_ylim(0, 1)
            right.set_ylabel(f"val {self.measured.names[0]}, now {values[-1]:.3f}", color="tab:orange")
        picture = io.BytesIO()
        figure.savefig(picture, dpi=120, format="png")
        replace_bytes(self.path.with_name(CURVES), picture.getbuffer())


def _line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows that were written whole; a power cut or a full disk can leave a part of one."""
    if not path.is_file():
        return []
    lines = [line for line in whole_lines(path) if "\0" not in line]
    return [row for row in csv.DictReader(lines) if (row.get("step") or "").isdecimal()]


def _column(rows: Sequence[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    filled = [(int(row["step"]), _number(row.get(name))) for row in rows]
    finite = [(step, value) for step, value in filled if math.isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite]


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:  # somebody changed the file
        return math.nan
