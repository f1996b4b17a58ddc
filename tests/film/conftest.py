"""Makes films by PyAV, and a small model for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from segnext import Predictor, segnext_t

av = pytest.importorskip("av", reason="PyAV is not installed")

CLASSES, COLOURS = ["road", "sky", "tree"], [[128, 64, 128], [70, 130, 180], [0, 128, 0]]


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return a frame whose mean grows with its index; (H, W, 3) uint8."""
    pixels = np.full((height, width, 3), 40 + 5 * index % 200, np.uint8)
    pixels[: height // 2, : width // 2] = (200, 60, 40)
    return pixels


def write_film(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int = 25,
    times: Sequence[float] | None = None,
    aspect: Fraction = Fraction(1),
    **options: str,
) -> Path:
    """Encode frames of one size; `times` in seconds make it one of variable frame rate."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.sample_aspect_ratio = aspect
        clock = Fraction(1, 1000)
        if times is not None:
            stream.codec_context.time_base = clock
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] / clock), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def film_of(path: Path) -> list[tuple[float, np.ndarray]]:
    """Return times and frames of a film, as PyAV reads them."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    """Return a small model of three classes."""
    torch.manual_seed(0)
    model = segnext_t(num_classes=3, depths=(1, 1, 1, 1))
    model.metadata = {"classes": CLASSES, "palette": COLOURS}
    return Predictor(model, device="cpu")


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a film of some frames into tmp_path."""

    def write(count: int = 6, name: str = "clip.mp4", **options: object) -> Path:
        size = options.pop("size", (48, 64))
        assert isinstance(size, tuple)
        return write_film(tmp_path / name, [picture(i, *size) for i in range(count)], **options)  # type: ignore[arg-type]

    return write
