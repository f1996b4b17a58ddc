"""Segments a film: frames are decoded ahead of the model, drawn and encoded behind it, in constant memory."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TextIO

from segnext.atomic import replace_bytes, replace_file
from segnext.data.images import ImageError
from segnext.film.drawing import FrameDrawing
from segnext.film.reading import Frame, Frames
from segnext.film.threads import Behind, ahead
from segnext.film.writing import FilmWriter
from segnext.one_line import one_line
from segnext.predict.prediction import Prediction
from segnext.predict.predictor import Predictor

_QUEUED = 3  # frames that wait on either side of the model


@dataclass(frozen=True)
class FilmReport:
    """What came of a film.

    Attributes:
        frames: how many were segmented.
        skipped: packets or files that could not be decoded.
        ends_early: what was wrong where reading had to end; empty: nothing.
        width, height: of the first frame.
        duration: seconds from the first frame to the last.
        stopped: whether `stop` ended it.
        seconds: that the whole work took.
        model_seconds: that the model took, of these.
        statistics: share of the pixels (0..1) of every class, on average over the frames.
    """

    frames: int
    skipped: int
    ends_early: str
    width: int
    height: int
    duration: float
    stopped: bool
    seconds: float
    model_seconds: float
    statistics: dict[str, float]


def segment_film(
    predictor: Predictor,
    frames: Frames,
    *,
    overlay: str | os.PathLike[str] | None = None,
    shares: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    alpha: float = 0.5,
    most: int | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> FilmReport:
    """Segment every frame of a film.

    Args:
        predictor: the model; a film needs one that takes RGB.
        frames: from `read_frames` or `read_camera`.
        overlay: an MP4 file for the tinted frames, with a legend of the classes (up to 30).
        shares: a file for one line of JSON per frame: its number, its time and the share of each class present.
        masks: a folder for the class ids of each frame, 000000.png and so on; it is made.
        alpha: strength of the overlay's colours, 0 to 1.
        most: end after this many frames.
        stop: the film ends after the current frame once this is set; what is written by then is whole.
        progress: is called with the number of finished frames.

    Raises:
        ImageError: there is no frame that can be decoded (a ValueError that names the source).
        OSError: a result cannot be written.
        ValueError: alpha is out of range, or the model takes other bands.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"segment_film: alpha must be within 0..1, got {alpha}")
    report: list[FilmReport] = []

    def write(overlay_file: Path | None, shares_file: Path | None) -> None:
        results = _Results(predictor, frames, overlay_file, shares_file, masks, alpha)
        report.append(_segment(predictor, frames, results, most, stop, progress))

    _replacing([overlay, shares], write)
    return report[0]


def _replacing(files: Sequence[str | os.PathLike[str] | None], write: Callable[..., object]) -> None:
    """Call `write` with a temporary path for each file that is wanted; they replace the files if it succeeds."""
    if not files:
        write()
        return
    first, *others = files
    if first is None:
        _replacing(others, partial(write, None))
    else:
        replace_file(first, lambda temporary: _replacing(others, partial(write, temporary)))


def _segment(
    predictor: Predictor,
    frames: Frames,
    results: _Results,
    most: int | None,
    stop: threading.Event | None,
    progress: Callable[[int], object],
) -> FilmReport:
    begun, model_seconds, count, last = time.perf_counter(), 0.0, 0, 0.0
    size: tuple[int, int] | None = None
    with (
        results,
        ahead(islice(frames, most), _QUEUED, stop) as decoded,
        Behind(results.add, _QUEUED) as finishing,
    ):
        for frame in decoded:
            prediction = predictor(frame.pixels)
            finishing.put((frame, prediction))
            model_seconds += prediction.seconds
            size = size or (frame.pixels.shape[0], frame.pixels.shape[1])
            last, count = frame.seconds, count + 1
            progress(count)
            if stop is not None and stop.is_set():
                break
        if size is None:
            why = f" ({frames.ends_early})" if frames.ends_early else ""
            raise ImageError(f"{one_line(frames.name)}: no frame could be decoded{why}; is it a whole film?")
    return FilmReport(
        frames=count,
        skipped=frames.skipped,
        ends_early=frames.ends_early,
        width=size[1],
        height=size[0],
        duration=last,
        stopped=stop is not None and stop.is_set(),
        seconds=time.perf_counter() - begun,
        model_seconds=model_seconds,
        statistics=results.statistics(),
    )


class _Results:
    """Writes what is wanted of each frame."""

    def __init__(
        self,
        predictor: Predictor,
        frames: Frames,
        overlay: Path | None,
        shares: Path | None,
        masks: str | os.PathLike[str] | None,
        alpha: float,
    ) -> None:
        self._rate, self._pixel_aspect, self._alpha = frames.rate, frames.pixel_aspect, alpha
        self._overlay, self._shares = overlay, shares
        self._masks = None if masks is None else Path(masks)
        self._sums, self._count = dict.fromkeys(predictor.classes, 0.0), 0
        self._open = ExitStack()
        self._lines: TextIO | None = None
        self._drawing: FrameDrawing | None = None
        self._writer: FilmWriter | None = None

    def __enter__(self) -> _Results:
        if self._masks is not None:
            self._masks.mkdir(parents=True, exist_ok=True)
        if self._shares is not None:
            self._lines = self._open.enter_context(self._shares.open("w", encoding="utf-8"))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type]

    def add(self, item: tuple[Frame, Prediction]) -> None:
        """Write the results of a frame."""
        frame, prediction = item
        shares = prediction.statistics()
        for name, share in shares.items():
            self._sums[name] += share
        self._count += 1
        if self._lines is not None:
            present = {name: round(share, 6) for name, share in shares.items() if share > 0}
            line = {"frame": frame.index, "seconds": round(frame.seconds, 6), "shares": present}
            self._lines.write(json.dumps(line) + "\n")
        if self._masks is not None:
            file = self._masks / f"{frame.index:06d}.png"
            replace_bytes(
                file, prediction.mask_png(), sync=False
            )  # a wait for the disk is longer than the model
        if self._overlay is not None:
            if self._drawing is None or self._writer is None:
                size = frame.pixels.shape[:2]
                self._drawing = FrameDrawing(
                    (size[0], size[1]), prediction.classes, prediction.palette, self._alpha
                )
                self._writer = self._open.enter_context(
                    FilmWriter(self._overlay, self._drawing.size, self._rate, self._pixel_aspect)
                )
            self._writer.write(self._drawing.draw(frame.pixels, prediction.mask), frame.seconds)

    def statistics(self) -> dict[str, float]:
        """Return the mean share of each class."""
        return {name: total / max(self._count, 1) for name, total in self._sums.items()}
