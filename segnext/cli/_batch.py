"""Segments many photographs, one after the other in each process; what goes wrong with one ends none of the others."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segnext.atomic import remove_leftovers
from segnext.cli._journal import Journal, Part
from segnext.cli._paths import real_path
from segnext.cli._show import save_shown
from segnext.data.images import ImageError
from segnext.locks import sole_use
from segnext.one_line import one_line
from segnext.predict.prediction import Prediction
from segnext.predict.predictor import Predictor
from segnext.ranks import Ranks, SharedWork
from segnext.signals import stop_signals

STOPPING = "stopping after this image; once more stops at once"
STOPPED = 130  # exit status after a signal


@dataclass(frozen=True)
class Plan:
    """What is to be done, in all processes.

    Attributes:
        results: for each image the files of its mask, of its overlay, and of what `--show` names, by kind.
        failures: a line for each input without an image.
        notes: what is left out.
    """

    results: dict[Path, dict[str, Path]]
    failures: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Done:
    """What was done in all processes; those after the first know only the status.

    Attributes:
        records: of the finished images.
        failures: a line for each input without an image, and for each image that failed.
        summary: the text of predictions.json; empty if it was not written.
        status: of the command.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    summary: str = ""
    status: int = 0


def segment_all(
    predictor: Predictor,
    run: dict[str, Any],
    plan: Plan,
    output: Path,
    alpha: float,
    resume: bool,
    ranks: Ranks,
    notes: Console,
) -> Done:
    """Segment each image in one of the processes; the first one holds the folder and writes the summary.

    Args:
        predictor: the model.
        run: what the summary says about all images.
        plan: what is to be done.
        output: folder of the results; it is made if it is missing.
        alpha: strength of the overlays' colours.
        resume: leave out what an earlier run has done.
        ranks: the processes.
        notes: shows the progress of all, if it is a terminal.

    Raises:
        FileExistsError: another run is at work in the folder.
        ValueError: the records to resume from are damaged, of other settings, or of other images with these names.
        segnext.ranks.RankFailed: another process has failed.
    """
    if ranks.is_first:
        output.mkdir(parents=True, exist_ok=True)
    with sole_use("predict", output) if ranks.is_first else nullcontext(), stop_signals(STOPPING) as stop:
        part = Part(output, ranks.rank)
        journal: Journal | None = None

        def begin() -> list[Path]:
            nonlocal journal
            journal = Journal(output, run, resume=resume, is_shared=ranks.count > 1)
            journal.expect_own(plan.results)
            paths = [path for files in plan.results.values() for path in files.values()]
            remove_leftovers(output, [path.name for path in paths])
            return journal.left(plan.results)

        left = ranks.of_first(begin)
        before = len(plan.results) - len(left)
        own = {file: plan.results[file] for file in left[ranks.rank :: ranks.count]}
        with ranks.shared_work(stop) as work:
            failures = _segment(
                predictor, own, alpha, journal or part, work, notes, total=len(plan.results), before=before
            )
            is_over = work.is_over()
        shares = ranks.gathered_by_first((part, failures))

        done = Done()

        def finish() -> int:
            nonlocal done
            if journal is not None:  # the first process has one
                journal.take_over((part for part, _ in shares), left)
                all_failures = plan.failures + [failure for _, failures in shares for failure in failures]
                done = _finish(journal, plan, all_failures, is_over)
            return done.status

        status = ranks.of_first(finish)
        return replace(done, status=status)


def _finish(journal: Journal, plan: Plan, failures: list[str], is_over: bool) -> Done:
    """Write the summary, unless images are left because the work was over before."""
    records = [journal.records[file] for file in map(real_path, plan.results) if file in journal.records]
    if is_over and len(records) < len(plan.results):
        return Done(records, failures, status=STOPPED)
    summary = ""
    try:
        summary = journal.finish(failures)
    except OSError as error:
        place = error.filename or journal.output
        failures.append(f"{place}: {error.strerror or error}; go on with --resume")
    return Done(records, failures, summary, 1 if failures else 0)


def _segment(
    predictor: Predictor,
    results: Mapping[Path, Mapping[str, Path]],
    alpha: float,
    journal: Journal | Part,
    work: SharedWork,
    console: Console,
    total: int,
    before: int,
) -> list[str]:
    """Segment and save images, and wait until all processes have done so.

    Args:
        predictor: the model.
        results: for each image of this process the files of its results by kind.
        alpha: strength of the overlay's colours.
        journal: gets the record of each image when its files are written.
        work: of all processes; the next image is not begun when it is over.
        console: shows the progress of all, if it is a terminal.
        total: number of images that are to be done at the end.
        before: number of those that were done before.

    Returns:
        A line for each image, or overlay, of this process that failed.
    """
    failures: list[str] = []
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=total, completed=before)
        for file, paths in results.items():
            if work.is_over():
                break
            progress.update(task, description=one_line(file.name))
            try:
                _segment_one(predictor, file, paths, alpha, journal, failures)
            except Exception as error:
                failures.append(line_about(file, error))
            progress.update(task, completed=before + work.done())
        work.wait(lambda done: progress.update(task, completed=before + done))
    return failures


def _segment_one(
    predictor: Predictor,
    file: Path,
    paths: Mapping[str, Path],
    alpha: float,
    journal: Journal | Part,
    failures: list[str],
) -> None:
    """Write mask, overlay, what is shown, and the record; the mask counts without the others."""
    record = journal.begin(file)
    prediction = predictor(file)
    prediction.save_mask(paths["mask"])
    names = {"mask": paths["mask"].name}
    if "overlay" in paths:
        try:
            names["overlay"] = prediction.save_overlay(paths["overlay"], alpha).name
        except Exception as error:
            failures.append(f"{line_about(file, error)}; its mask is written, its overlay is not")
    try:
        names |= save_shown(predictor, prediction, file, paths)
    except Exception as error:
        failures.append(f"{line_about(file, error)}; its mask is written, what --show names is not")
    journal.add({**record, **names, **_facts(prediction)})


def _facts(prediction: Prediction) -> dict[str, Any]:
    height, width = prediction.mask.shape
    return {
        "width": width,
        "height": height,
        "seconds": round(prediction.seconds, 4),
        "statistics": {name: round(share, 6) for name, share in prediction.statistics().items()},
    }


def line_about(file: Path, error: Exception) -> str:
    """Return one line that names the photograph, and the file that could not be written."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{file}: {error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    known = isinstance(error, ValueError | RuntimeError | MemoryError | OSError)
    return f"{file}: {text}" if known and text else f"{file}: {type(error).__name__} {text}".rstrip()
