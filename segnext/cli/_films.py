"""`segnext predict` on films and cameras: an overlay film, the shares of each frame, masks if wanted, a summary."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from segnext.atomic import remove_leftovers, replace_text
from segnext.cli._batch import STOPPED
from segnext.cli._inputs import result_names
from segnext.cli._paths import real_path
from segnext.film.reading import FILM_SUFFIXES, NUMBERED, Frames, is_film, read_camera, read_frames
from segnext.film.segmenting import FilmReport, segment_film
from segnext.locks import sole_use
from segnext.one_line import one_line
from segnext.predict.predictor import Predictor
from segnext.signals import stop_signals

STOPPING = (
    "stopping after this frame; what is done will be whole. Once more stops at once, and leaves nothing"
)
CAMERA = "camera"  # name of its results


@dataclass(frozen=True)
class FilmOptions:
    """What is wanted of films.

    Attributes:
        output: the folder of the results.
        overlay: whether overlay films are drawn.
        alpha: strength of their colours.
        masks: whether the mask of each frame is written.
        most: frames of each film; None: all.
        rate: frames per second of numbered images.
        run: what the summaries say of the model and its options.
    """

    output: Path
    overlay: bool
    alpha: float
    masks: bool
    most: int | None
    rate: float | None
    run: Mapping[str, Any]

    def wanted(self) -> dict[str, Any]:
        """Return what a summary must say for its film to be done."""
        return {"overlay": self.overlay, "masks": self.masks, "most": self.most, "rate": self.rate}


@dataclass
class Filmed:
    """What came of films: a summary of each, a line for each that failed, and the status."""

    summaries: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    status: int = 0


class Split(NamedTuple):
    """The films of a command line.

    Attributes:
        films: their files, in the order given; those of a pattern are sorted.
        others: the other names.
        notes: one line for films that are left out.
    """

    films: list[str]
    others: list[str]
    notes: list[str]


def split_films(names: Sequence[str], output: Path) -> Split:
    """Take the films out of a command line.

    Args:
        names: as typed; patterns that end like a film are expanded here.
        output: the folder of the results, whose overlay films no pattern means.
    """
    films: dict[str, str] = {}
    others, notes = [], []
    for name in names:
        path = os.path.expanduser(name)
        is_pattern = glob.has_magic(path) and not os.path.lexists(path)
        if is_pattern and Path(path).suffix.lower() in FILM_SUFFIXES and (found := sorted(glob.glob(path))):
            own = [film for film in found if _is_overlay(film, output)]
            films.update((real_path(Path(film)), film) for film in found if film not in own)
            if own:
                notes.append(f"{_listed(own)} left out as results; name what is a film itself")
        elif is_film(path):
            films.setdefault(real_path(Path(path)), path)
        else:
            others.append(name)
            if inside := _films_in(path):
                notes.append(
                    f"{_listed(inside)} in {one_line(name)} left out; a folder means its photographs"
                )
    return Split(list(films.values()), others, notes)


def _is_overlay(film: str, output: Path) -> bool:
    return film.endswith("_overlay.mp4") and os.path.realpath(os.path.dirname(film)) == os.path.realpath(
        output
    )


def _films_in(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # no folder, or one that `find_images` says cannot be read
        return []
    return [name for name in names if not name.startswith(".") and Path(name).suffix.lower() in FILM_SUFFIXES]


def _listed(films: Sequence[str]) -> str:
    some = ", ".join(one_line(film) for film in films[:3]) + ", ..." * (len(films) > 3)
    return f"{'1 film' if len(films) == 1 else f'{len(films)} films'} ({some})"


def film_results(films: Sequence[str], camera: str | None) -> dict[str, str]:
    """Return for each film, and the camera, the name with which its results begin.

    Raises:
        ValueError: a film and the camera would have one name.
    """
    names = dict(zip(films, result_names([_named_by(film) for film in films]), strict=True))
    if camera is None:
        return names
    for film, name in names.items():
        if name.lower() == CAMERA:
            raise ValueError(
                f"predict: results of --camera must have a name of their own, got {one_line(film)} too; use two calls"
            )
    return {**names, CAMERA: CAMERA}


def _named_by(film: str) -> Path:
    """Return the path whose stem names the results: of numbered images what is beside the number, or their folder."""
    path = Path(film)
    if NUMBERED.search(path.name) is None or path.exists():
        return path
    stem = NUMBERED.sub("", path.stem).strip("_-. ")
    if stem:
        return path.with_name(stem + path.suffix)
    folder = Path(real_path(path)).parent
    return folder.parent / ((folder.name or "frames") + path.suffix)


def result_files(output: Path, name: str) -> dict[str, Path]:
    """Return where the results of a film go."""
    return {
        "overlay": output / f"{name}_overlay.mp4",
        "frames": output / f"{name}_frames.jsonl",
        "masks": output / f"{name}_masks",
        "summary": output / f"{name}_film.json",
    }


def expect_free(output: Path, names: Mapping[str, str], resume: bool, overwrite: bool) -> None:
    """Refuse results that exist, unless they are to be replaced or gone on with."""
    files = [path for name in names.values() for path in result_files(output, name).values()]
    existing = [path.name for path in files if os.path.lexists(path)]
    if existing and not (resume or overwrite):
        raise ValueError(
            f"predict: results of films must not exist yet in {output}, got {', '.join(existing[:3])}; use --overwrite "
            "to replace them, --resume to leave out the films that are done, or another folder with -o"
        )


def segment_films(
    predictor: Predictor,
    films: Mapping[str, str],
    camera: str | None,
    options: FilmOptions,
    resume: bool,
    notes: Console,
) -> Filmed:
    """Segment each film, one after another; what goes wrong with one ends none of the others.

    Args:
        predictor: the model.
        films: for each film the name with which its results begin.
        camera: what `--camera` says; its name in `films` is `CAMERA`.
        options: what is wanted.
        resume: leave out the films that are done: to their end, with these options, and unchanged since.
        notes: shows the progress, if it is a terminal.

    Raises:
        FileExistsError: another run is at work in the folder.
    """
    done = Filmed()
    options.output.mkdir(parents=True, exist_ok=True)
    with sole_use("predict", options.output), stop_signals(STOPPING) as stop:
        for film, name in films.items():
            files = result_files(options.output, name)
            if resume and is_done(files["summary"], film, options):
                continue
            remove_leftovers(options.output, [file.name for file in files.values()])
            _remove_masks(files["masks"])
            is_camera = camera is not None and film == CAMERA
            try:
                frames = read_camera(camera or "") if is_camera else read_frames(film, rate=options.rate)
                report = _segment(predictor, frames, files, options, stop, notes)
                done.summaries.append(_summary(film, files, report, options))
                replace_text(
                    files["summary"], json.dumps({**done.summaries[-1], "run": options.run}, indent=1) + "\n"
                )
            except (OSError, ValueError, RuntimeError, MemoryError) as error:
                text = " ".join(str(error).split()) or type(error).__name__
                done.failures.append(text if film in text else f"{film}: {text}")
                done.status = 1
            if stop.is_set():
                done.status = 0 if is_camera and not done.failures else STOPPED
                break
    return done


def _segment(
    predictor: Predictor,
    frames: Frames,
    files: Mapping[str, Path],
    options: FilmOptions,
    stop: Event,
    notes: Console,
) -> FilmReport:
    total = min(filter(None, (frames.total, options.most)), default=None)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.completed:.0f} frames, {task.fields[speed]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True) if notes.is_terminal else nullcontext() as shown:
        task = (
            None if shown is None else shown.add_task(one_line(Path(frames.name).name), total=total, speed="")
        )

        def progress(done: int) -> None:
            if shown is not None and task is not None:
                speed = shown.tasks[0].speed or 0
                shown.update(task, completed=done, speed=f"{speed:.1f} frames/s")

        return segment_film(
            predictor,
            frames,
            overlay=files["overlay"] if options.overlay else None,
            shares=files["frames"],
            masks=files["masks"] if options.masks else None,
            alpha=options.alpha,
            most=options.most,
            stop=stop,
            progress=progress,
        )


def _summary(
    film: str, files: Mapping[str, Path], report: FilmReport, options: FilmOptions
) -> dict[str, Any]:
    written = {"overlay": options.overlay, "frames": True, "masks": options.masks}
    return {
        "film": film,
        "options": options.wanted(),
        **_stamp(film),
        "results": {kind: files[kind].name for kind, wanted in written.items() if wanted},
        **dataclasses.asdict(report),
    }


def _remove_masks(folder: Path) -> None:
    """Remove the masks of an earlier run, of which there may be more than there will be."""
    for mask in folder.glob("*.png"):
        if mask.stem.isdecimal():
            mask.unlink()


def _stamp(film: str) -> dict[str, Any]:
    """Return what tells whether a film has changed; nothing for a camera and numbered images."""
    try:
        status = os.stat(film)
    except OSError:
        return {}
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def is_done(summary: Path, film: str, options: FilmOptions) -> bool:
    """Return whether an earlier call finished a film with these options, and neither it nor its results are gone."""
    try:
        earlier = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    results = [options.output / name for name in earlier.get("results", {}).values()]
    same = earlier.get("run") == options.run and earlier.get("options") == options.wanted()
    stamp = _stamp(film)
    unchanged = stamp and earlier.items() >= stamp.items()
    return bool(same and unchanged and not earlier.get("stopped") and all(path.exists() for path in results))


def show(console: Console, summary: Mapping[str, Any], output: Path) -> None:
    """Print what came of a film."""
    count, seconds = summary["frames"], summary["seconds"]
    console.print(
        f"{summary['film']}: {count} frames of {summary['width']}x{summary['height']}, {seconds:.1f} s, "
        f"{count / seconds:.1f} frames/s",
        markup=False,
    )
    if summary["skipped"]:
        console.print(f"{summary['skipped']} parts could not be decoded and were left out", markup=False)
    if summary["ends_early"]:
        console.print(f"the film ends early: {summary['ends_early']}", markup=False)
    if summary["stopped"]:
        console.print("stopped before its end; --resume begins it again", markup=False)
    present = sorted(summary["statistics"].items(), key=lambda item: -item[1])
    console.print(
        ", ".join(f"{name} {100 * share:.1f} %" for name, share in present if share >= 0.0005), markup=False
    )
    for kind, name in summary["results"].items():
        console.print(f"{kind:<8}{output / name}", markup=False)
