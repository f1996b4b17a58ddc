"""Records a run: its rows in files, curves.png if matplotlib is installed, and lines on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch
from rich.console import Console

from segnext.atomic import replace_bytes
from segnext.training.curves import CURVES, draw_curves
from segnext.training.events import Events
from segnext.training.memory import peak_memory
from segnext.training.patience import exhausted
from segnext.training.progress import RunProgress, in_words
from segnext.training.records import Records, Trained
from segnext.training.settings import Reporting

_CPU = torch.device("cpu")


class Measured(NamedTuple):
    """The two measures of an evaluation: their columns in results.csv, and their names."""

    columns: tuple[str, str]
    names: tuple[str, str]


SEGMENTATION = Measured(("val_miou", "val_pixel_accuracy"), ("mIoU", "pixel accuracy"))
CLASSIFICATION = Measured(("val_top1", "val_top5"), ("top-1", "top-5"))


class RunLog:
    """Writes results.csv and results.jsonl in `folder`: a row per `reporting.log_every` steps and one per evaluation.

    On a terminal two lines show the latest numbers; elsewhere each row is also printed.

    Args:
        folder: the run's folder.
        steps: length of the run.
        first_step: steps that are done; rows of later steps, from an interrupted session, are dropped.
        reporting: says how many steps' losses are averaged into one row, and when evaluations come.
        losses: those since the last row; changed in place, so that a checkpoint can hold them.
        console: where to print.
        hold: keep the rows in memory and an earlier run's files as they are, until `begin` is called.
        measured: what an evaluation measures.
        device: the memory of this device is recorded.
        has_val: whether there will be evaluations, for the time that is left.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        first_step: int,
        reporting: Reporting,
        losses: list[float],
        console: Console,
        *,
        hold: bool = False,
        measured: Measured = SEGMENTATION,
        device: torch.device = _CPU,
        has_val: bool = True,
    ) -> None:
        self.folder, self.steps, self.every = folder, steps, reporting.log_every
        self.losses, self.console = losses, console
        self.measured, self.device = measured, device
        self.records = Records(folder, measured.columns, first_step, hold)
        self._images = 0
        self._seconds = self._waited = 0.0
        self._events = Events(folder, first_step, self.records.objects) if reporting.tensorboard else None
        self._steps = 0
        self._progress = RunProgress(console, steps, first_step, reporting.eval_every if has_val else None)
        self._progress.evaluation_seconds = self.records.evaluation_seconds

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._tell(Events.close)
        if kind is None:
            self._plot()

    def begin(self, names: Mapping[str, str]) -> None:
        """Write the rows that were held back, under other `names` while an earlier run's files have theirs."""
        self.records.begin(names)

    def evaluated(self, step: int) -> bool:
        """Return whether there is a row of an evaluation at `step`."""
        return step in self.records.measured

    def exhausted(self, patience: int) -> str | None:
        """Return why the run ends early, see `segnext.training.patience`; None if it goes on."""
        return exhausted(self.records.measured, patience, self.measured.names[0])

    def note(self, text: str) -> None:
        """Print one line above the progress."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def training(
        self, step: int, loss: float, learning_rate: float, images: int, seconds: float, waited: float
    ) -> None:
        """Record one step.

        Args:
            step: steps that are done.
            loss: of the step; NaN for a batch without labels.
            learning_rate: of the step.
            images: in the whole batch.
            seconds: the step's time.
            waited: seconds of it in which the loop waited for the batch.
        """
        self.losses.append(loss)
        self._images += images
        self._seconds += seconds
        self._waited += waited
        self._steps += 1
        if self._progress.seconds_per_step is None or step % self.every == 0:
            self._progress.seconds_per_step = self._seconds / self._steps
        self._progress.step(step)
        if step % self.every and step != self.steps:
            return
        counted = [value for value in self.losses if not math.isnan(value)]
        mean = sum(counted) / len(counted) if counted else math.nan
        speed, wait = self._images / self._seconds, self._waited / self._seconds
        row = Trained(mean, learning_rate, speed, wait, peak_memory(self.device))
        # Cleared first: whatever fails below, a checkpoint that is written then must not count them twice.
        self.losses.clear()
        self._images, self._steps, self._seconds, self._waited = 0, 0, 0.0, 0.0
        written = self.records.trained(step, row)
        self._tell(lambda events: events.write(written))
        text = f"loss {mean:.4f}  lr {learning_rate:.2e}  {speed:.1f} images/s  wait {wait:.0%}  {in_words(row.memory)}"
        self._progress.numbers.plain = text
        if not self.console.is_terminal:
            self.note(f"step {step}/{self.steps}  {text}")

    def evaluation(
        self, step: int, headline: tuple[float, float], seconds: float, summary: Mapping[str, object]
    ) -> None:
        """Record an evaluation on the validation split.

        Args:
            step: steps that are done.
            headline: the two measures, for instance mIoU and pixel accuracy.
            seconds: the evaluation's time.
            summary: all measures.
        """
        written = self.records.evaluated(step, headline, seconds, summary)
        self._tell(lambda events: events.write(written))
        first, second = self.measured.names
        self._progress.evaluated(first, headline[0], seconds)
        self.note(
            f"step {step}/{self.steps}  val {first} {headline[0]:.4f}  {second} {headline[1]:.4f}  ({seconds:.0f} s)"
        )
        if step < self.steps:  # `__exit__` plots the last one
            self._plot()

    def draw(self, name: str, make: Callable[[], bytes | None]) -> None:
        """Write a picture in the folder, if there is one; a picture that cannot be drawn must not end a run."""
        if self.records.is_held:
            return
        try:
            picture = make()
            if picture is not None:
                replace_bytes(self.folder / name, picture)
        except Exception as error:
            self.note(f"{name} was not drawn: {_reason(error)}")

    def _tell(self, act: Callable[[Events], None]) -> None:
        """Let TensorBoard's events follow, if there are any; what cannot be written must not end a run."""
        if self._events is None or self.records.is_held:
            return
        try:
            act(self._events)
        except Exception as error:
            self._events = None
            self.note(f"TensorBoard's events end here: {_reason(error)}")

    def _plot(self) -> None:
        (measure, _), (name, _) = self.measured
        title = self.folder.resolve().name
        self.draw(CURVES, lambda: draw_curves(self.records.rows(), title, self.steps, measure, name))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
