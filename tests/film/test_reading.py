"""Frames of real files: what FFmpeg decodes, times that grow, and one line for what is no film."""

from __future__ import annotations

import re
import shutil
import subprocess
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.images import ImageError
from segnext.film import read_camera, read_frames
from segnext.film.reading import FILM_SUFFIXES, is_film, read_device
from tests.film.conftest import av, film_of, picture, write_film


def test_frames_are_those_of_the_file(clip):
    path = clip(6)
    frames = read_frames(path)
    assert (frames.total, frames.rate) == (6, 25)
    read = list(frames)
    assert [frame.index for frame in read] == list(range(6))
    assert [frame.seconds for frame in read] == pytest.approx([i / 25 for i in range(6)])
    for frame, (_, pixels) in zip(read, film_of(path), strict=True):
        assert np.array_equal(frame.pixels, pixels)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("odd.mkv", dict(codec="ffv1", pix_fmt="yuv444p", size=(33, 47))),
        ("ten_bits.mkv", dict(codec="ffv1", pix_fmt="yuv420p10le")),
        ("alpha.mkv", dict(codec="ffv1", pix_fmt="yuva444p")),
        ("gray.mkv", dict(codec="ffv1", pix_fmt="gray")),
        ("one.mp4", dict(count=1)),
        ("film.webm", dict(codec="libvpx-vp9")),
        ("film.avi", dict(codec="mpeg4")),
    ],
)
def test_kinds_of_files(clip, name, options):
    options = {"count": 3, "size": (48, 64), **options}
    read = list(read_frames(clip(name=name, **options)))
    assert len(read) == options["count"]
    for index, frame in enumerate(read):
        assert frame.pixels.shape == (*options["size"], 3) and frame.pixels.dtype == np.uint8
        wanted = picture(index, *options["size"])
        wanted = wanted if name != "gray.mkv" else np.asarray(Image.fromarray(wanted).convert("L"))[..., None]
        assert np.abs(frame.pixels.astype(int) - wanted).mean() < 8


def test_times_of_a_variable_rate_stay(tmp_path):
    times = [0, 0.04, 0.5, 0.51, 2]
    path = write_film(tmp_path / "vfr.mkv", [picture(i) for i in range(5)], "ffv1", "yuv444p", times=times)
    assert [frame.seconds for frame in read_frames(path)] == pytest.approx(times, abs=2e-3)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg, which writes a film's rotation")
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_telephone_held_upright(clip, tmp_path, degrees):
    plain = clip(2)
    turned = tmp_path / "turned.mp4"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        plain,
        "-c",
        "copy",
        "-metadata:s:v:0",
        f"rotate={degrees}",
        turned,
    ]
    subprocess.run(command, check=True)
    (first, _), shown = read_frames(turned), tmp_path / "shown.png"
    subprocess.run(["ffmpeg", "-v", "error", "-i", turned, "-frames:v", "1", shown], check=True)  # turns it
    wanted = np.asarray(Image.open(shown).convert("RGB"))
    assert first.pixels.shape == wanted.shape
    assert np.abs(first.pixels.astype(int) - wanted).mean() < 3


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_animated_images(tmp_path, kind):
    images = [Image.fromarray(picture(10 * i)) for i in range(4)]
    path = tmp_path / f"moving.{kind}"
    options = {"lossless": True} if kind == "webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=80, loop=0, **options)
    assert is_film(path)
    frames = read_frames(path)
    read = list(frames)
    assert frames.total == len(read) == 4
    assert [frame.seconds for frame in read] == pytest.approx([0, 0.08, 0.16, 0.24])
    for frame, image in zip(read, images, strict=True):
        assert np.abs(frame.pixels.astype(int) - np.asarray(image)).mean() < 3


def test_a_still_image_is_no_film(tmp_path):
    for name in ("a.png", "b.gif", "c.jpg", "d.webp"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        assert not is_film(tmp_path / name)
    assert not is_film(tmp_path / "none.gif")
    assert is_film("x.MP4") and is_film("frames/%06d.png")


def test_numbered_images(tmp_path):
    for number in (9, 10, 100, 11):
        Image.fromarray(picture(number)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "frame_12.png").write_bytes(b"no image")
    (tmp_path / "frame_x.png").write_bytes(b"another")
    frames = read_frames(tmp_path / "frame_%d.png", rate=10)
    read = list(frames)
    assert (frames.total, frames.skipped) == (5, 1)
    assert [int(frame.pixels[-1, -1, 0]) for frame in read] == [
        picture(n)[-1, -1, 0] for n in (9, 10, 11, 100)
    ]
    assert [frame.seconds for frame in read] == pytest.approx([0, 0.1, 0.2, 0.3])
    with pytest.raises(ImageError, match=r"other_%d.png: no image has such a name"):
        read_frames(tmp_path / "other_%d.png")


def test_damaged_packets_are_skipped_and_counted(clip):
    path = clip(60, name="film.ts", size=(96, 128))
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(2000, len(content) - 400, 12):
        content[place : place + 150] = rng.integers(0, 256, 150, np.uint8).tobytes()
    path.write_bytes(content)
    frames = read_frames(path)
    read = list(frames)
    assert 5 < len(read) <= 60
    assert all(later.seconds > earlier.seconds for earlier, later in zip(read, read[1:], strict=False))


def test_a_film_that_ends_in_the_middle(clip):
    path = clip(60, name="film.mkv", size=(96, 128))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    frames = read_frames(path)
    assert 0 < len(list(frames)) < 60
    assert re.fullmatch(r"its frames end at \d\.\d s of 2\.4 s; is the file whole\?", frames.ends_early)


def test_a_whole_film_does_not_end_early(clip):
    frames = read_frames(clip(60))
    assert len(list(frames)) == 60 and frames.ends_early == ""


def test_frames_that_change_their_size(clip, tmp_path):
    parts = [
        clip(3, name="a.ts", codec="mpeg2video"),
        clip(3, name="b.ts", codec="mpeg2video", size=(96, 64)),
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    read = list(read_frames(path))
    assert {frame.pixels.shape[:2] for frame in read} == {(48, 64), (96, 64)}
    assert all(later.seconds > earlier.seconds for earlier, later in zip(read, read[1:], strict=False))


def test_frames_that_grow_beyond_the_limit_count_as_damaged(clip, tmp_path, monkeypatch):
    parts = [
        clip(3, name="a.ts", codec="mpeg2video"),
        clip(3, name="b.ts", codec="mpeg2video", size=(480, 640)),
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    frames = read_frames(path)
    assert {frame.pixels.shape[:2] for frame in frames} == {(48, 64)}
    assert frames.skipped >= 2


def test_pixels_that_are_not_square(tmp_path):
    path = write_film(tmp_path / "wide.mp4", [picture(0)], aspect=Fraction(64, 45))
    assert read_frames(path).pixel_aspect == Fraction(64, 45)


# What FFmpeg may have to write each kind of container.
_WRITERS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".mkv", ".avi", ".3gp"), ("mpeg4", "yuv420p")),
    **dict.fromkeys((".mpg", ".mpeg", ".ts", ".mts"), ("mpeg2video", "yuv420p")),
    **{".webm": ("libvpx", "yuv420p"), ".ogv": ("libtheora", "yuv420p"), ".wmv": ("wmv2", "yuv420p")},
    **{".flv": ("flv", "yuv420p"), ".y4m": ("wrapped_avframe", "yuv420p")},
}


@pytest.mark.parametrize("suffix", sorted(FILM_SUFFIXES))
def test_every_suffix_is_read(clip, suffix):
    codec, pix_fmt = _WRITERS[suffix]
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = clip(30, name=f"film{suffix}", codec=codec, pix_fmt=pix_fmt)
    assert len(list(read_frames(path))) == 30


def _sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    return path


def _text(path: Path) -> Path:
    path.write_text("no film\n" * 100)
    return path


def _headless(path: Path) -> Path:
    write_film(path, [picture(i) for i in range(4)])
    path.write_bytes(path.read_bytes()[:-600])  # the index of an MP4 lies at its end
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_sound, r"cannot be opened as a film \(it holds none of the kinds that are read\)"),
        (_text, "cannot be opened as a film"),
        (lambda path: path.touch() or path, "cannot be opened as a film"),
        (_headless, "(cannot be opened as a film|the file has no video that can be read)"),
    ],
    ids=["sound", "text", "empty", "cut-mp4"],
)
def test_what_is_no_film_is_one_line(tmp_path, make, message):
    path = make(tmp_path / "film.mp4")
    with pytest.raises(ImageError, match=rf"^{path}: {message}[^\n]*$"):
        read_frames(path)


def test_a_film_of_huge_frames_is_refused_before_it_is_decoded(clip, monkeypatch):
    path = clip(2)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="must have at most 2,000 pixels, got 64x48; raise --max-pixels"):
        read_frames(path)


def test_missing_files_and_addresses(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_frames(tmp_path / "none.mp4")
    with pytest.raises(ImageError, match="a film must be a file; download it, or use --camera"):
        read_frames("https://example.org/film.mp4")
    with pytest.raises(
        ImageError, match=r"/dev/video77: cannot be opened as a film \(No such file or directory\)"
    ):
        read_camera("/dev/video77")


def test_a_file_cannot_name_other_places(clip, tmp_path):
    """A playlist that passes for a film may not make FFmpeg fetch from the network."""
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    film = tmp_path / "film.mp4"
    film.write_bytes(path.read_bytes())
    with pytest.raises(ImageError, match="cannot be opened as a film"):
        read_frames(film)


def test_a_file_cannot_name_other_files(clip, tmp_path):
    """FFmpeg takes a list of films for a film, whatever its suffix."""
    clip(3, name="other.mkv")
    film = tmp_path / "film.mp4"
    film.write_text("ffconcat version 1.0\nfile other.mkv\n")
    with av.open(str(film)) as container:
        assert container.format.name == "concat"
    with pytest.raises(ImageError, match="cannot be opened as a film"):
        read_frames(film)


def test_a_song_with_a_cover_is_no_film(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound, cover = container.add_stream("aac", rate=8000), container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        shown = av.VideoFrame.from_ndarray(picture(0), "rgb24")
        for stream, frame in ((cover, shown), (sound, silence)):
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with pytest.raises(ImageError, match="the file has no video that can be read"):
        read_frames(path)


def test_a_photograph_whose_name_looks_like_a_pattern(tmp_path):
    path = tmp_path / "100%done.png"
    Image.new("RGB", (8, 8)).save(path)
    assert not is_film(path) and is_film(tmp_path / "%d.png")


def test_a_live_source():
    """FFmpeg's test picture comes through the way of cameras: an input device without end."""
    frames = read_device("testsrc=size=64x48:rate=5", "lavfi")
    assert frames.total is None
    read = iter(frames)
    first, second = next(read), next(read)
    assert first.pixels.shape == (48, 64, 3) and second.seconds == pytest.approx(0.2)
    assert av.__version__
