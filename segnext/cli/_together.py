"""Evaluates for `segnext val` in all processes of the run, with one progress bar."""

from __future__ import annotations

import threading
from collections.abc import Callable

import typer
from rich.console import Console
from rich.progress import Progress

from segnext.evaluation.measures import Result
from segnext.evaluation.together import AfterImages, Images, evaluate_together
from segnext.models.finite import NonFiniteError
from segnext.ranks import Ranks

AGAIN = "begin again"  # what to do when a process hangs


def evaluate_shown(
    evaluated: Callable[[Images, AfterImages], Result],
    dataset: Images,
    ranks: Ranks,
    console: Console,
    title: str,
) -> Result:
    """Evaluate as `evaluate_together` does; a signal ends the process at once.

    Raises:
        NonFiniteError: logits are not finite, in the first process, whichever has met them.
        typer.Exit: in the others.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=len(dataset))
        evaluation, failure = evaluate_together(
            evaluated, dataset, ranks, threading.Event(), lambda done: progress.update(task, completed=done)
        )
    if evaluation is not None:
        return evaluation
    if ranks.is_first:
        raise NonFiniteError(failure)
    raise typer.Exit(1)
