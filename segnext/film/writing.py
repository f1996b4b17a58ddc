"""Writes an overlay film: H.264 where FFmpeg has it, with the times of the frames that were read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from segnext.film.library import av_library

# The first that this FFmpeg has: quality that hardly differs from the frames, at a speed that leaves the cores to the
# model.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libopenh264": {},
    "mpeg4": {"qscale": "3"},
}
_CLOCK = Fraction(1, 90_000)  # seconds of a tick


class FilmWriter:
    """Encodes frames into an MP4 file.

    Args:
        path: the file; it is replaced.
        size: (height, width) of every frame, both even.
        rate: frames per second, for players that ask; the frames have times of their own.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction) -> None:
        self._av = av_library()
        name = next(name for name in _ENCODERS if name in self._av.codecs_available)
        self._container = self._av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        stream: Any = self._container.add_stream(name, rate=rate, options=_ENCODERS[name])
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _CLOCK
        stream.codec_context.thread_count = 1
        self._stream, self._last = stream, -1

    def write(self, pixels: np.ndarray, seconds: float) -> None:
        """Encode a frame, (H, W, 3) uint8 RGB, that is shown from `seconds` on."""
        frame = self._av.VideoFrame.from_ndarray(pixels, "rgb24")
        self._last = frame.pts = max(round(seconds / _CLOCK), self._last + 1)
        frame.time_base = _CLOCK
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
