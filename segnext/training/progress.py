"""The progress of a run on a terminal: the latest numbers, a bar, and the time that is left."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

BAR = 24  # letters: with the words beside it, a line fits on a terminal of 80


def coming_evaluations(step: int, steps: int, every: int) -> int:
    """Return how many evaluations follow after `step`: every `every` steps (0: none) and after the last one."""
    if step >= steps:
        return 0
    regular = (steps - 1) // every - step // every if every else 0
    return regular + 1


def in_words(memory: int) -> str:
    """Return bytes as GiB."""
    return f"{memory / (1 << 30):.1f} GiB"


class RunProgress(Progress):
    """Two lines: the latest numbers of the training; a bar with the time that is left and the last evaluation.

    Args:
        console: a terminal; elsewhere nothing is shown.
        steps: length of the run.
        first_step: steps that are done.
        eval_every: steps between evaluations, 0: only the last is evaluated; None: none is.

    Attributes:
        seconds_per_step: of the latest steps; None before the first one.
        evaluation_seconds: what the last evaluation took.
    """

    def __init__(self, console: Console, steps: int, first_step: int, eval_every: int | None) -> None:
        self.numbers = Text(no_wrap=True, overflow="ellipsis")
        self.eval_every = eval_every
        self.steps = steps
        self.seconds_per_step: float | None = None
        self.evaluation_seconds = 0.0
        super().__init__(
            BarColumn(BAR),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[evaluation]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self.add_task("", total=steps, completed=first_step, left="", evaluation="")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the two lines."""
        yield self.numbers
        yield self.make_tasks_table(self.tasks)

    def step(self, step: int) -> None:
        """Show that `step` steps are done, and the time that is left."""
        left = self.left(step)
        words = "" if left is None else f"{timedelta(seconds=round(left))} left"
        self.update(self._task, completed=step, left=words)

    def left(self, step: int) -> float | None:
        """Return the seconds of the steps and of the evaluations that follow after `step`; None if nobody knows."""
        if self.seconds_per_step is None:
            return None
        evaluations = 0
        if self.eval_every is not None:
            evaluations = coming_evaluations(step, self.steps, self.eval_every)
        return (self.steps - step) * self.seconds_per_step + evaluations * self.evaluation_seconds

    def evaluated(self, name: str, measure: float, seconds: float) -> None:
        """Show the last evaluation."""
        self.evaluation_seconds = seconds
        self.update(self._task, evaluation=f"{name} {measure:.4f} ({seconds:.0f} s)")
