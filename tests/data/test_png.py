"""A PNG whose compressed stream is no whole image is refused, by decoding and by the header check alike."""

import struct
import subprocess
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image

from segnext.data import headers, images
from segnext.data.headers import Header, read_header
from segnext.data.images import ImageError, read_image, rgb_array
from segnext.data.labels import read_label
from segnext.data.png import Rows, lacks_rows
from tests.data.test_images import png

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
READERS = (read_image, read_header, partial(read_header, with_fingerprint=True))
RNG = np.random.default_rng(0)


def filtered(pixels: np.ndarray, bits: int = 8, filter: int = 0) -> list[bytes]:
    """Return the rows of (H, W, C) numbers as a PNG stores them."""
    rows = []
    for row in pixels.astype(">u2" if bits == 16 else np.uint8):
        row = np.packbits(np.unpackbits(row.reshape(-1, 1), axis=1)[:, -bits:]) if bits < 8 else row
        rows.append(bytes([filter]) + row.tobytes())
    return rows


def interlaced(pixels: np.ndarray, bits: int = 8) -> list[bytes]:
    parts = [pixels[top::down, left::right] for left, top, right, down in PASSES]
    return [row for part in parts if part.size for row in filtered(part, bits)]


def numbers(height: int, width: int, colour: int, bits: int) -> np.ndarray:
    return RNG.integers(0, 1 << bits, (height, width, CHANNELS[colour]))


KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)]


@pytest.mark.parametrize("is_interlaced", [False, True], ids=["rows", "passes"])
@pytest.mark.parametrize(("colour", "bits"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 3), (8, 8), (13, 11)], ids=str)
@pytest.mark.filterwarnings("ignore::segnext.data.depth.ImageWarning")
def test_a_stream_that_lacks_rows_is_refused(tmp_path, size, colour, bits, is_interlaced):
    pixels = numbers(*size, colour, bits)
    rows = (interlaced if is_interlaced else filtered)(pixels, bits)
    path = tmp_path / "a.png"

    def write(stream: bytes) -> None:
        png(path, size[1], size[0], bits, colour, stream=zlib.compress(stream), interlaced=is_interlaced)

    write(b"".join(rows))
    expected = read_image(path)
    assert read_header(path) == Header(*size, 1)
    write(b"".join(rows) + b"more")  # libpng warns of it and reads the image
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_header(path) == Header(*size, 1)
    for kept in (b"".join(rows[:-1]), b"".join(rows[: len(rows) // 2]), b"".join(rows)[:-1]):
        write(kept)
        for read in READERS:
            with pytest.raises(ImageError, match=r"a\.png: cannot be decoded, it is damaged or truncated"):
                read(path)


def test_interlaced_pixels(tmp_path):
    pixels = RNG.integers(0, 256, (13, 11, 3)).astype(np.uint8)
    path = png(tmp_path / "a.png", 11, 13, 8, 2, b"".join(interlaced(pixels)), interlaced=True)
    np.testing.assert_array_equal(read_image(path), pixels)


def test_labels_that_end_early_are_refused(tmp_path):
    """Pillow would give class 0 for the rows that are missing."""
    rows = filtered(np.ones((64, 64, 1)))
    path = png(tmp_path / "a.png", 64, 64, 8, 0, b"".join(rows[:32]))
    with pytest.raises(ImageError, match=r"a\.png: cannot be decoded, it is damaged or truncated"):
        read_label(path)
    palette = bytes(range(6))
    path = png(tmp_path / "b.png", 64, 64, 8, 3, b"".join(rows[:-1]), palette=palette)
    with pytest.raises(ImageError, match=r"b\.png: cannot be decoded, it is damaged or truncated"):
        read_label(path)


@pytest.mark.filterwarnings("ignore::segnext.data.depth.ImageWarning")
def test_black_rows_at_the_end_are_an_image(tmp_path):
    pixels = numbers(20, 30, 2, 8).astype(np.uint8)
    pixels[-5:] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    for mode in ("1", "L", "P", "I;16", "LA", "RGBA"):
        black = Image.new(mode, (30, 20))
        black.save(tmp_path / "b.png")
        expected = 255 if mode in ("LA", "RGBA") else 0  # alpha 0 on white
        np.testing.assert_array_equal(read_image(tmp_path / "b.png"), np.full((20, 30, 3), expected))


def test_a_last_row_like_the_mark_is_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_MARK", b"\1")
    counted = []
    monkeypatch.setattr(images, "lacks_rows", lambda file: counted.append(lacks_rows(file)) or counted[-1])
    for value in (1, 2):
        pixels = np.full((20, 30), value, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_label(tmp_path / "a.png"), pixels)
    assert counted == [False]  # other rows cost nothing


def test_an_opened_image_that_ends_early_is_refused(tmp_path):
    path = png(tmp_path / "a.png", 8, 8, 8, 0, b"".join(filtered(np.ones((4, 8, 1)))))
    with path.open("rb") as file, Image.open(file) as image, pytest.raises(ImageError, match="truncated"):
        rgb_array(image)


@pytest.mark.parametrize("is_interlaced", [False, True], ids=["rows", "passes"])
def test_a_stream_that_cannot_seek(tmp_path, monkeypatch, is_interlaced):
    """As of a download: Pillow keeps its bytes, and forgets them after decoding."""
    monkeypatch.setattr(images, "_MARK", b"\1")  # so that the stream is counted once more
    pixels = np.full((8, 8, 1), 1)
    rows = (interlaced if is_interlaced else filtered)(pixels)
    path = png(tmp_path / "a.png", 8, 8, 8, 0, stream=zlib.compress(b"".join(rows)), interlaced=is_interlaced)
    with (
        subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as process,
        Image.open(process.stdout) as image,
    ):
        np.testing.assert_array_equal(rgb_array(image), np.broadcast_to(pixels, (8, 8, 3)))


def test_what_is_behind_the_end_of_a_stream_is_not_kept(tmp_path):
    """zlib would copy it all again with each part."""
    rows = Rows(struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    rows.add(zlib.compress(b"".join(filtered(np.ones((7, 8, 1))))))
    for _ in range(100):
        rows.add(bytes(1000))
    assert len(rows._inflate.unused_data) == 0 and not rows.are_complete


def test_a_very_wide_row_takes_little_more_memory(tmp_path):
    assert images._mark(Image.new("RGBA", (10**7, 1))).width == 4096


def test_an_animation_goes_on_after_a_black_frame(tmp_path):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("black", "red")]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with (tmp_path / "a.png").open("rb") as file:
        for source in (file, tmp_path / "a.png"):
            with Image.open(source) as image:
                assert (rgb_array(image) == 0).all()
                image.seek(1)
                assert (rgb_array(image) == (255, 0, 0)).all()


def damaged_streams() -> dict[str, bytes]:
    pixels = numbers(64, 64, 2, 8)
    whole = zlib.compress(b"".join(filtered(pixels)))
    return {
        "cut": whole[: len(whole) // 2],
        "half": zlib.compress(b"".join(filtered(pixels[:32]))),
        "checksum": whole[:-4] + bytes(4),
        "filter": zlib.compress(b"".join(filtered(pixels, filter=7))),
        "none": b"",
        "raw": b"".join(filtered(pixels)),
    }


@pytest.mark.parametrize("kind", damaged_streams())
def test_what_decoding_refuses_the_header_check_refuses(tmp_path, kind):
    """The checksums of all chunks are right."""
    path = png(tmp_path / "a.png", 64, 64, 8, 2, stream=damaged_streams()[kind])
    for read in READERS:
        with pytest.raises(ImageError, match=r"a\.png: cannot be decoded, it is damaged or truncated"):
            read(path)


def test_pixels_in_two_places_are_refused(tmp_path):
    """A part between two of the stream ends it for a decoder."""
    path = png(tmp_path / "a.png", 64, 64, 8, 0, b"".join(filtered(numbers(64, 64, 0, 8))))
    content = path.read_bytes()
    start, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    body = content[start + 8 : end - 4]
    parts = [(b"IDAT", body[:99]), (b"tEXt", b"a\0b"), (b"IDAT", body[99:])]
    middle = b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts
    )
    path.write_bytes(content[:start] + middle + content[end:])
    for read in READERS:
        with pytest.raises(ImageError, match=r"a\.png: cannot be decoded, it is damaged or truncated"):
            read(path)


def test_a_large_image_is_checked_in_pieces(tmp_path, monkeypatch):
    """A single chunk of more than one piece, and rows that cross their borders."""
    monkeypatch.setattr(headers, "opened", None)  # decoding would fail
    pixels = numbers(211, 307, 2, 8)
    for rows in (filtered(pixels), filtered(np.zeros((2000, 3000, 1)))):
        height, width = len(rows), (len(rows[0]) - 1) // (3 if len(rows) == 211 else 1)
        path = png(tmp_path / "a.png", width, height, 8, 2 if height == 211 else 0, b"".join(rows))
        assert read_header(path) == Header(height, width, 1)
