"""Reads the frames of films, numbered images, animated images and cameras, one after another."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from segnext.data.images import ImageError, opened, rgb_array
from segnext.film.library import av_library
from segnext.one_line import one_line

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# The suffixes of films, and FFmpeg's name for what is in such files.
_CONTAINERS = {
    "mov": (".mp4", ".m4v", ".mov", ".3gp"),
    "matroska": (".mkv", ".webm"),
    "avi": (".avi",),
    "mpeg": (".mpg", ".mpeg"),
    "mpegvideo": (),  # .mpg without the packs of "mpeg"
    "mpegts": (".ts", ".mts"),
    "asf": (".wmv",),
    "flv": (".flv",),
    "ogg": (".ogv",),
    "yuv4mpegpipe": (".y4m",),
}
FILM_SUFFIXES = {suffix for suffixes in _CONTAINERS.values() for suffix in suffixes}
ANIMATED_SUFFIXES = {".gif", ".webp", ".png", ".apng"}
NUMBERED = re.compile(r"%0?\d*d")
SEQUENCE_RATE = 25  # frames per second of numbered images, which have no times of their own
_GIF_SECONDS = 0.1  # of a frame whose file says 0, as browsers do
_MISSING = 1.0  # seconds between the last frame and the length that a file gives, from which on it may be cut
_LONGEST_GAP = 10.0  # seconds between two frames of a file; times that jump further are damaged
_FEW_CORES = 4
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True)
class Frame:
    """A frame of a film.

    Attributes:
        index: its number, from 0; frames that cannot be decoded have none.
        seconds: its time since the first frame.
        pixels: (H, W, 3) uint8 RGB, upright. Another frame may have another size.
    """

    index: int
    seconds: float
    pixels: np.ndarray


class Frames:
    """The frames of one source, in order; they can be gone through once.

    Attributes:
        name: of the source, for messages.
        total: the number of frames that the source says or that its length suggests; None: unknown, as of a camera.
        rate: frames per second on average.
        pixel_aspect: width over height of a pixel; 1, except in some films for television.
        skipped: packets that could not be decoded so far.
        ends_early: what was wrong at the place where reading had to end; empty: nothing.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        rate: Fraction,
        read: Callable[[Frames], Iterator[Frame]],
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        self.name, self.total, self.rate, self.pixel_aspect = name, total, rate, pixel_aspect
        self.skipped, self.ends_early = 0, ""
        self._read = read(self)

    def __iter__(self) -> Iterator[Frame]:
        return self._read


def is_film(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of a film: by its suffix, as numbered images, or as an animated image."""
    text = os.fspath(name)
    suffix = Path(text).suffix.lower()
    if suffix in FILM_SUFFIXES or _is_numbered(text):
        return True
    return suffix in ANIMATED_SUFFIXES and os.path.isfile(text) and _is_animated(text)


def read_frames(source: str | os.PathLike[str], *, rate: float | None = None) -> Frames:
    """Open a film.

    Args:
        source: a film's file; an animated GIF, WebP or PNG; or numbered images, such as ``frames/%06d.png``. Addresses
            are not followed, neither here nor from within a file, and a file names no other files (no playlists).
        rate: frames per second of numbered images; 25 by default.

    Raises:
        ImageError: the file is no film that can be read, or has no frame (a ValueError that names the file).
        OSError: there is no such file, or it may not be read.
        ImportError: PyAV is not installed.
    """
    text = os.fspath(source)
    if "://" in text:
        raise ImageError(
            f"{one_line(text)}: a film must be a file; download it, or use --camera for a live source"
        )
    suffix = Path(text).suffix.lower()
    if _is_numbered(text):
        return _numbered(text, Fraction(rate or SEQUENCE_RATE).limit_denominator(1001))
    with open(text, "rb"):  # the system's own error, before FFmpeg's
        pass
    if suffix in ANIMATED_SUFFIXES:
        return _animated(text)
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(_CONTAINERS)}
    return _of_container(text, _open(text, options), is_live=False)


def read_camera(name: str) -> Frames:
    """Open a camera, or a stream of the network.

    Args:
        name: a number, ``"0"`` for the first camera; a device such as ``/dev/video2``; an address, ``rtsp://...``.

    Raises:
        ImageError: it cannot be opened. ImportError: PyAV is not installed.
    """
    if "://" in name:
        return _of_container(name, _open(name, {"timeout": "10000000"}), is_live=True)  # microseconds
    system = _CAMERAS.get(sys.platform, "v4l2")
    device = f"/dev/video{name}" if name.isdecimal() and system == "v4l2" else name
    return read_device(device, system)


def read_device(name: str, device_format: str) -> Frames:
    """Open what one of FFmpeg's input devices gives, such as ``("/dev/video0", "v4l2")``; raises as `read_camera`."""
    return _of_container(name, _open(name, {}, device_format), is_live=True)


def _open(name: str, options: dict[str, str], device_format: str | None = None) -> InputContainer:
    av = av_library()
    try:
        return av.open(name, format=device_format, options=options)
    except av.error.FFmpegError as error:
        refused = "format_whitelist" in options and isinstance(error, av.error.ArgumentError)
        said = "it holds none of the kinds that are read" if refused else _said(error)
        raise ImageError(f"{one_line(name)}: cannot be opened as a film ({said})") from None


def _of_container(name: str, container: InputContainer, is_live: bool) -> Frames:
    av = av_library()
    cover = av.stream.Disposition.attached_pic  # the picture of a song
    stream = next((each for each in container.streams.video if not each.disposition & cover), None)
    if stream is None:
        container.close()
        raise ImageError(f"{one_line(name)}: the file has no video that can be read; is it whole?")
    rate = stream.average_rate or stream.guessed_rate or Fraction(SEQUENCE_RATE)
    limit = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else None
    if limit and stream.width * stream.height > limit:
        container.close()
        raise ImageError(
            f"{one_line(name)}: frames must have at most {limit:,} pixels, got {stream.width}x{stream.height}; raise "
            "--max-pixels"
        )
    # FFmpeg's threads would take turns with the model's where cores are few; reading has a thread of its own anyway.
    stream.thread_type = "AUTO" if (os.cpu_count() or 1) > _FEW_CORES else "NONE"
    if limit:  # for frames that are larger than the first one: they count as damaged
        stream.codec_context.options = {"max_pixels": str(limit)}
    length = 0.0 if is_live else _length(container, stream)
    total = (
        None if is_live else round(length * rate) or stream.frames or None
    )  # the count includes trimmed ones

    def read(frames: Frames) -> Iterator[Frame]:
        clock, seconds = _Clock(1 / float(rate), is_live), 0.0
        with container:
            for index, frame in enumerate(_decoded(container, stream, frames)):
                seconds = clock.seconds(frame.time)
                yield Frame(index, seconds, _upright(frame))
        if not frames.ends_early and length - seconds - 1 / rate > _MISSING:
            frames.ends_early = f"its frames end at {seconds:.1f} s of {length:.1f} s; is the file whole?"

    return Frames(name, total, rate, read, stream.sample_aspect_ratio or Fraction(1))


def _decoded(container: InputContainer, stream: VideoStream, frames: Frames) -> Iterator[VideoFrame]:
    """Yield the frames of a container; packets that cannot be decoded are counted and left out."""
    av = av_library()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            frames.ends_early = _said(error)
            return
        try:
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            frames.skipped += 1


class _Clock:
    """Gives each frame a time that grows, from the times in the file, some of which may be missing or wrong."""

    def __init__(self, step: float, is_live: bool) -> None:
        self._step, self._is_live = step, is_live
        self._first: float | None = None
        self._shift, self._last = 0.0, -step

    def seconds(self, time: float | None) -> float:
        following = self._last + self._step
        if self._first is None:
            self._first = time or 0.0
        now = following if time is None else time - self._first + self._shift
        if now <= self._last or (not self._is_live and now > self._last + _LONGEST_GAP):
            self._shift += following - now
            now = following
        self._last = now
        return now


def _upright(frame: VideoFrame) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    quarters = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


def _length(container: InputContainer, stream: VideoStream) -> float:
    """Return the seconds of a film as its file gives them; 0: unknown."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6  # FFmpeg's unit, microseconds


def _is_numbered(name: str) -> bool:
    """Return whether a name is a pattern of numbered images, and not that of a file such as 100%done.png."""
    return NUMBERED.search(name) is not None and not os.path.lexists(name)


def _numbered(pattern: str, rate: Fraction) -> Frames:
    """Read ``frames/%06d.png``: the images whose names have a number there, in the order of the numbers."""
    parts = NUMBERED.split(os.path.basename(pattern))
    if NUMBERED.search(os.path.dirname(pattern)) or len(parts) != 2:
        raise ImageError(f"{one_line(pattern)}: numbered images must have one %d, in the name of the file")
    name = re.compile(f"{re.escape(parts[0])}(\\d+){re.escape(parts[1])}")
    folder = os.path.dirname(pattern) or os.curdir
    found = sorted((int(m[1]), m[0]) for m in map(name.fullmatch, os.listdir(folder)) if m)
    if not found:
        raise ImageError(f"{one_line(pattern)}: no image has such a name; is the pattern right?")

    def read(frames: Frames) -> Iterator[Frame]:
        index = 0
        for _, file in found:
            try:
                with opened(os.path.join(folder, file)) as image:
                    pixels = rgb_array(image)
            except ImageError:
                frames.skipped += 1
                continue
            yield Frame(index, index / float(rate), pixels)
            index += 1

    return Frames(pattern, len(found), rate, read)


def _animated(file: str) -> Frames:
    """Read an animated image by Pillow, which composes its frames."""
    with opened(file) as image:
        total = getattr(image, "n_frames", 1)
        length = total * _duration(image)  # a guess by the first frame: to ask the others would decode them

    def read(frames: Frames) -> Iterator[Frame]:
        seconds = 0.0
        with opened(file) as image:
            for index in range(total):
                try:
                    image.seek(index)
                    pixels = rgb_array(image.convert("RGBA") if "transparency" in image.info else image)
                except (OSError, EOFError, SyntaxError, ValueError) as error:
                    frames.ends_early = _said(error)
                    return
                yield Frame(index, seconds, pixels)
                seconds += _duration(image)

    return Frames(file, total, Fraction(total / length).limit_denominator(1001), read)


def _duration(image: Image.Image) -> float:
    return float(image.info.get("duration") or 0) / 1000 or _GIF_SECONDS


def _is_animated(file: str) -> bool:
    try:
        with opened(file) as image:
            return bool(getattr(image, "is_animated", False))
    except (ImageError, OSError):
        return False


def _said(error: Any) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return one_line(text)
