"""A segmented film: each frame as the predictor sees it alone, results that are whole, errors that are raised."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from segnext.data.images import ImageError
from segnext.film import read_frames, segment_film, threads
from segnext.film.drawing import FrameDrawing
from segnext.film.threads import Behind, ahead
from segnext.film.writing import FilmWriter
from tests.film.conftest import CLASSES, COLOURS, av, film_of, picture, write_film
from tests.full_disk import MESSAGE, full_disk

RESULTS = {"overlay": "o.mp4", "shares": "s.jsonl"}


def test_every_frame_is_what_the_predictor_gives(predictor, clip, tmp_path):
    path = clip(5, size=(50, 66))
    done = []
    report = segment_film(
        predictor,
        read_frames(path),
        overlay=tmp_path / "o.mp4",
        shares=tmp_path / "s.jsonl",
        masks=tmp_path / "masks",
        progress=done.append,
    )
    assert done == [1, 2, 3, 4, 5]
    assert (report.frames, report.skipped, report.width, report.height) == (5, 0, 66, 50)
    wanted = [predictor(pixels) for _, pixels in film_of(path)]
    for index, prediction in enumerate(wanted):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"masks/{index:06d}.png")), prediction.mask)
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(5))
    for line, prediction in zip(lines, wanted, strict=True):
        present = {name: share for name, share in prediction.statistics().items() if share}
        assert line["shares"] == pytest.approx(present, abs=1e-6)
    mean = {name: np.mean([p.statistics()[name] for p in wanted]) for name in CLASSES}
    assert report.statistics == pytest.approx(mean)
    overlay = film_of(tmp_path / "o.mp4")
    assert [time for time, _ in overlay] == pytest.approx([i / 25 for i in range(5)], abs=1e-4)
    for (_, shown), prediction in zip(overlay, wanted, strict=True):
        left = (shown.shape[1] - 66) // 2  # the legend is wider than the small frames
        picture_shown = shown[:50, left : left + 66].astype(int)
        drawn, plain = np.asarray(prediction.overlay(legend=False)), prediction.image
        assert np.abs(picture_shown - drawn).mean() < 0.4 * np.abs(picture_shown - plain).mean()


def test_times_stay_in_the_overlay(predictor, tmp_path):
    times = [0, 0.04, 0.5, 2]
    path = write_film(tmp_path / "v.mkv", [picture(i) for i in range(4)], "ffv1", "yuv444p", times=times)
    segment_film(predictor, read_frames(path), overlay=tmp_path / "o.mp4")
    assert [time for time, _ in film_of(tmp_path / "o.mp4")] == pytest.approx(times, abs=2e-3)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg, which decodes as players do")
def test_players_see_the_colours_that_were_drawn(tmp_path):
    colours = [(128, 64, 128), (0, 128, 0), (200, 30, 60)]
    film = tmp_path / "o.mp4"
    with FilmWriter(
        film, (720, 96), Fraction(25), Fraction(64, 45)
    ) as writer:  # by their height, players guess BT.709
        for index, colour in enumerate(colours):
            writer.write(np.full((720, 96, 3), colour, np.uint8), index / 25)
    for index, (colour, (_, read)) in enumerate(zip(colours, film_of(film), strict=True)):
        shown = tmp_path / f"{index}.png"
        chosen = ["-vf", f"select=eq(n\\,{index}),scale=in_color_matrix=auto", "-frames:v", "1", shown]
        subprocess.run(["ffmpeg", "-v", "error", "-i", film, *chosen], check=True)
        assert np.abs(np.asarray(Image.open(shown).convert("RGB"), int) - colour).max() <= 4
        assert np.abs(read.astype(int) - colour).max() <= 4
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.colorspace == 1, "the film does not say BT.709"
        assert stream.sample_aspect_ratio == Fraction(64, 45)


def test_frames_that_no_encoder_takes_are_one_line(predictor, tmp_path):
    path = write_film(tmp_path / "wide.mkv", [np.zeros((20, 20_000, 3), np.uint8)], "ffv1", "yuv444p")
    message = (
        r"^film: an overlay must have a size that \w+ encodes, got 20000x\d+ with the legend [^\n]*overlay\)$"
    )
    with pytest.raises(ValueError, match=message):
        segment_film(predictor, read_frames(path), overlay=tmp_path / "o.mp4")
    assert segment_film(predictor, read_frames(path)).frames == 1
    assert not (tmp_path / "o.mp4").exists()


@pytest.mark.parametrize("size", [(33, 47), (48, 64), (17, 200)])
def test_frames_of_any_size_become_one_film(size):
    drawing = FrameDrawing(size, CLASSES, np.array(COLOURS, np.uint8), 0.5)
    assert drawing.size[0] % 2 == drawing.size[1] % 2 == 0
    mask = np.zeros(size, np.uint8)
    first = drawing.draw(picture(0, *size), mask).copy()
    other = drawing.draw(picture(0, 20, 30), np.ones((20, 30), np.uint8))
    assert first.shape == other.shape == (*drawing.size, 3)
    assert np.array_equal(first[size[0] :], other[size[0] :]), "the legend moves"


def test_many_classes_have_no_legend():
    colours = np.arange(93, dtype=np.uint8).reshape(31, 3)
    drawing = FrameDrawing((40, 60), [f"class {i}" for i in range(31)], colours, 0.5)
    assert drawing.size == (40, 60)


def test_the_end_can_be_chosen_and_asked_for(predictor, clip, tmp_path):
    assert segment_film(predictor, read_frames(clip(9)), most=4).frames == 4
    stop = threading.Event()
    report = segment_film(
        predictor,
        read_frames(clip(9)),
        overlay=tmp_path / "o.mp4",
        stop=stop,
        progress=lambda done: stop.set() if done == 3 else None,
    )
    assert report.frames == 3 and len(film_of(tmp_path / "o.mp4")) == 3
    assert report.stopped and not segment_film(predictor, read_frames(clip(2))).stopped


def test_no_frame_leaves_nothing(predictor, tmp_path):
    path = write_film(tmp_path / "film.mkv", [picture(i) for i in range(30)])
    whole = path.read_bytes()
    path.write_bytes(whole[:700])  # the header alone
    results = {kind: tmp_path / "out" / name for kind, name in RESULTS.items()}
    with pytest.raises(ImageError, match=f"^{path}: no frame could be decoded"):
        segment_film(predictor, read_frames(path), **results)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_one_error_and_leaves_the_old_film(predictor, tmp_path):
    rng = np.random.default_rng(0)
    noisy = [rng.integers(0, 256, (96, 128, 3), np.uint8) for _ in range(12)]
    frames = read_frames(write_film(tmp_path / "noise.mkv", noisy, "ffv1", "yuv444p"))
    overlay = tmp_path / "o.mp4"
    overlay.write_bytes(b"old")
    with full_disk(4000), pytest.raises(OSError, match=re.escape(MESSAGE)) as raised:
        segment_film(predictor, frames, overlay=overlay)
    assert str(raised.value.filename) == str(overlay)
    assert overlay.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["noise.mkv", "o.mp4"]


def test_an_error_of_the_model_ends_the_film(predictor, clip, monkeypatch, tmp_path):
    def fails(pixels):
        raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        segment_film(fails_like(predictor, fails), read_frames(clip(30)), overlay=tmp_path / "o.mp4")
    assert not (tmp_path / "o.mp4").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("segnext ")]


def fails_like(predictor, call):
    """Return a predictor with another call."""
    kind = type("Failing", (type(predictor),), {"__call__": lambda self, pixels: call(pixels)})
    other = object.__new__(kind)
    other.__dict__.update(predictor.__dict__)
    return other


def test_a_source_that_fails_raises_behind_its_items():
    def items():
        yield 1
        raise OSError("gone")

    with ahead(items(), 2) as taken:
        assert next(taken) == 1
        with pytest.raises(OSError, match="gone"):
            next(taken)


def test_a_source_that_falls_silent_holds_nobody(monkeypatch):
    """A camera that was unplugged: its read may never return, and nothing can end its thread."""
    monkeypatch.setattr(threads, "_PATIENCE", 0.1)
    silence, stop = threading.Event(), threading.Event()

    def items():
        yield 1
        silence.wait()

    with ahead(items(), 2, stop) as taken:
        assert next(taken) == 1
        threading.Timer(0.2, stop.set).start()
        assert list(taken) == []
    silence.set()


def test_a_consumer_that_fails_stops_its_producer():
    def fails(item):
        raise OSError("full")

    with pytest.raises(OSError, match="full"), Behind(fails, 1) as behind:
        for item in range(1000):
            behind.put(item)
    assert item < 999


MEMORY = """
import resource, sys
import numpy as np
import torch
from segnext import Predictor, segnext_t
from segnext.film import Frames, segment_film
from segnext.film.reading import Frame

torch.set_num_threads(1)
torch.manual_seed(0)
predictor = Predictor(segnext_t(num_classes=3, depths=(1, 1, 1, 1)), device="cpu")

def peak(count):
    def read(frames):
        for index in range(count):
            yield Frame(index, index / 25, np.full((240, 320, 3), index % 256, np.uint8))
    segment_film(predictor, Frames("made", count, 25, read), overlay=sys.argv[1], shares=sys.argv[1] + ".jsonl")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

peak(60)
print(peak(60), peak(600))
"""


def test_memory_does_not_grow_with_the_film(tmp_path):
    """600 frames of 230 kB are 138 MB: were they kept, or queued without bounds, the peak would show it."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "o.mp4")]
    short, long = map(
        float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )
    assert long < short + 40
