"""Segments many photographs, one after the other; whatever goes wrong with one of them ends none of the others."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segnext.atomic import remove_leftovers
from segnext.cli._journal import Journal
from segnext.data.images import ImageError
from segnext.one_line import one_line
from segnext.predict.prediction import Prediction
from segnext.predict.predictor import Predictor


def segment(
    predictor: Predictor,
    results: Mapping[Path, Mapping[str, Path]],
    alpha: float,
    journal: Journal,
    stop: threading.Event,
    console: Console,
) -> list[str]:
    """Segment and save every image that the journal does not know yet.

    Args:
        predictor: the model.
        results: for each image the files of its mask and its overlay, if it gets one.
        alpha: strength of the overlay's colours.
        journal: gets the record of each image when its files are written.
        stop: ends the work before the next image.
        console: shows the progress, if it is a terminal.

    Returns:
        A line for each image, or overlay, that failed.
    """
    remove_leftovers(journal.output, [path.name for files in results.values() for path in files.values()])
    failures: list[str] = []
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=len(results))
        for file, paths in results.items():
            if stop.is_set():
                break
            progress.update(task, description=one_line(file.name))
            if not journal.is_done(file, paths):
                try:
                    _segment_one(predictor, file, paths, alpha, journal, failures)
                except Exception as error:
                    failures.append(_line(file, error))
            progress.advance(task)
    return failures


def _segment_one(
    predictor: Predictor,
    file: Path,
    paths: Mapping[str, Path],
    alpha: float,
    journal: Journal,
    failures: list[str],
) -> None:
    """Write mask, overlay and record; without an overlay, the mask counts."""
    record = journal.begin(file)
    prediction = predictor(file)
    prediction.save_mask(paths["mask"])
    names = {"mask": paths["mask"].name}
    if "overlay" in paths:
        try:
            names["overlay"] = prediction.save_overlay(paths["overlay"], alpha).name
        except Exception as error:
            failures.append(f"{_line(file, error)}; its mask is written, its overlay is not")
    journal.add({**record, **names, **_facts(prediction)})


def _facts(prediction: Prediction) -> dict[str, Any]:
    height, width = prediction.mask.shape
    return {
        "width": width,
        "height": height,
        "seconds": round(prediction.seconds, 4),
        "statistics": {name: round(share, 6) for name, share in prediction.statistics().items()},
    }


def _line(file: Path, error: Exception) -> str:
    """Return one line that names the photograph, and the file that could not be written."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{file}: {error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    known = isinstance(error, ValueError | RuntimeError | MemoryError | OSError)
    return f"{file}: {text}" if known and text else f"{file}: {type(error).__name__} {text}".rstrip()
