"""Writes an overlay film: H.264 where FFmpeg has it, with the times of the frames that were read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from segnext.film.library import av_library

# The first that this FFmpeg has: quality that hardly differs from the frames, at a speed that leaves the cores to the
# model: with two cores, each ms of the encoder is one of the model. A 720p frame took 9 ms of one core, and 13 or 19 ms
# with "superfast" or "veryfast"; the price is a PSNR of 39.5 against 40.0 dB and files about twice as large.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "20", "preset": "ultrafast"},
    "libopenh264": {},
    "mpeg4": {"qscale": "3"},
}
_CLOCK = Fraction(1, 90_000)  # seconds of a tick
_BT709 = 1  # FFmpeg's number for it; without a mark, players guess by the size, and colours differ from the legend's
_LIMITED = 1  # FFmpeg's number for luma of 16..235


class FilmWriter:
    """Encodes frames into an MP4 file.

    Args:
        path: the file; it is replaced.
        size: (height, width) of every frame, both even.
        rate: frames per second, for players that ask; the frames have times of their own.
        pixel_aspect: width over height of a pixel.

    Raises:
        OSError: the file cannot be written.
        ValueError: the encoder takes no such frames; H.264 ends at 16,384 pixels in a row.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], rate: Fraction, pixel_aspect: Fraction = Fraction(1)
    ) -> None:
        self._av = av_library()
        self._encoder = next(name for name in _ENCODERS if name in self._av.codecs_available)
        self._size, self._last = size, -1
        self._container = self._av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        stream: Any = self._container.add_stream(self._encoder, rate=rate, options=_ENCODERS[self._encoder])
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base, context.thread_count = _CLOCK, 1
        context.sample_aspect_ratio = pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._stream = stream

    def write(self, pixels: np.ndarray, seconds: float) -> None:
        """Encode a frame, (H, W, 3) uint8 RGB, that is shown from `seconds` on; raises as the class says."""
        frame = self._av.VideoFrame.from_ndarray(pixels, "rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED)
        self._last = frame.pts = max(round(seconds / _CLOCK), self._last + 1)
        frame.time_base = _CLOCK
        with self._naming():
            self._container.mux(self._stream.encode(frame))

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Say in words what the encoder refuses; errors of the system stay as they are."""
        try:
            yield
        except self._av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            height, width = self._size
            raise ValueError(
                f"film: an overlay must have a size that {self._encoder} encodes, got {width}x{height} with the legend "
                f"({error.strerror}); leave it out (--no-overlay)"
            ) from error

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with self._naming():
                    self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
