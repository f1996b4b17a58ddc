"""A header says what decoding would say, and a file that is not whole is refused as decoding would refuse it."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from segnext.data import headers
from segnext.data.headers import Header, read_header
from segnext.data.images import ImageError, read_image
from tests.data.test_depth import deep_png

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def saved(path: Path, mode: str = "RGB", **options: object) -> Path:
    Image.fromarray(PIXELS).convert(mode).save(path, **options)
    return path


def turned(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def with_fingerprint(path: Path) -> Header:
    """Read a header in the way of the doctor, which decodes a PNG."""
    return read_header(path, with_fingerprint=True)


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(_: Path) -> None:
        raise AssertionError("the file was decoded")

    monkeypatch.setattr(headers, "opened", refuse)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.jpg", "RGB"), ("a.jpg", "L"), ("a.png", "RGB"), ("a.png", "P")]
)
def test_common_files_are_not_decoded(tmp_path, no_decoding, name, mode):
    assert read_header(saved(tmp_path / name, mode)) == Header(20, 30, 1)


def test_comments_and_padding_cost_nothing(tmp_path, no_decoding):
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "a camera with exif")
    assert read_header(saved(tmp_path / "a.png", pnginfo=text)) == Header(20, 30, 1)
    padded = saved(tmp_path / "a.jpg")
    padded.write_bytes(padded.read_bytes() + bytes(1000))
    assert read_header(padded) == Header(20, 30, 1)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("number", range(2, 9))
def test_turns(tmp_path, name, number):
    path = saved(tmp_path / name, exif=turned(number))
    header = read_header(path)
    assert header == with_fingerprint(path) == Header(20, 30, number)
    assert header.size(upright=True) == read_image(path).shape[:2]
    stored = read_image(path, upright=False)
    assert header.size(upright=False) == stored.shape[:2] == (20, 30)
    if path.suffix in (".png", ".tif"):
        np.testing.assert_array_equal(stored, PIXELS)


@pytest.mark.filterwarnings("ignore::segnext.data.depth.ImageWarning")  # of a TIFF with alpha
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P"])
@pytest.mark.parametrize("number", range(2, 9))
def test_a_turned_tiff_has_its_own_pixels(tmp_path, mode, number, compression):
    """Pillow 13 mixes up the rows of an uncompressed file that is turned by 90 degrees."""
    image = Image.fromarray(PIXELS).convert(mode)
    image.save(tmp_path / "a.tif", exif=turned(number), compression=compression)
    image.save(tmp_path / "upright.tif")
    turn = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turn |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
    image.transpose(Image.Transpose[turn[number]]).save(tmp_path / "expected.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "expected.tif"))
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif", upright=False), read_image(tmp_path / "upright.tif")
    )


@pytest.mark.filterwarnings("ignore::segnext.data.depth.ImageWarning")
@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "1"])
def test_rare_modes(tmp_path, mode):
    assert read_header(saved(tmp_path / "a.tif", mode)) == Header(20, 30, 1)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.webp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_truncated_files_are_refused(tmp_path, name, share):
    path = saved(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for read in (read_image, read_header, with_fingerprint):
        with pytest.raises(ImageError, match=name):
            read(path)


def test_damaged_bytes_in_a_jpeg(tmp_path):
    """Whatever decoding refuses is refused, although some damage only changes colours."""
    path = saved(tmp_path / "a.jpg", quality=95)
    content = path.read_bytes()
    refused = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        for place in rng.integers(2, len(content), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            expected = read_image(path).shape[:2]
        except ImageError:
            refused += 1
            for read in (read_header, with_fingerprint):
                with pytest.raises(ImageError):
                    read(path)
        else:
            for read in (read_header, with_fingerprint):
                assert read(path).size(upright=True) == expected
    assert 5 < refused < 55


def test_a_flipped_bit_in_a_png(tmp_path):
    path = saved(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    for read in (read_header, with_fingerprint):
        with pytest.raises(ImageError, match=r"a\.png"):
            read(path)


def test_no_image(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(ImageError, match=r"a\.png: not an image"):
        read_header(tmp_path / "a.png")
    with pytest.raises(ImageError, match="no such file"):
        read_header(tmp_path / "b.png")


def test_a_kind_that_the_reader_refuses(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="floating-point"):
        read_header(tmp_path / "a.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is not a regular file"):
        read_header(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "mode", "kind"),
    [
        ("a.jpg", "RGB", "8-bit RGB"),
        ("a.jpg", "L", "8-bit gray"),
        ("a.jpg", "CMYK", "8-bit CMYK"),
        ("a.png", "RGB", "8-bit RGB"),
        ("a.png", "RGBA", "8-bit RGBA"),
        ("a.png", "LA", "8-bit gray with alpha"),
        ("a.png", "1", "1-bit gray"),
        ("a.png", "I;16", "16-bit gray"),
        ("a.png", "P", "8-bit palette"),
        ("a.tif", "RGB", "8-bit RGB"),
    ],
)
def test_the_kind_of_a_file(tmp_path, name, mode, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
    image.convert(mode).save(tmp_path / name)
    for read in (read_header, with_fingerprint):
        header = read(tmp_path / name)
        assert header == Header(20, 30, 1) and header.kind == kind


def test_the_kind_of_deep_colour(tmp_path):
    deep_png(tmp_path / "a.png", np.arange(6 * 5 * 3).reshape(6, 5, 3) * 700)
    assert with_fingerprint(tmp_path / "a.png").kind == "16-bit RGB"
