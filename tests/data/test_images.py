"""Every odd kind of image file comes out as upright 8-bit RGB, or as one line that names the file."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.images import ImageError, read_image, rgb_array

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def photo(height: int = 20, width: int = 30) -> np.ndarray:
    """Return a smooth colour ramp, which lossy formats keep."""
    y, x = np.mgrid[:height, :width]
    return np.stack([8 * x, 12 * y, 255 - 8 * x], axis=-1).clip(0, 255).astype(np.uint8)


def png(
    path: Path,
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: bytes = b"",
    transparent: bytes = b"",
    *,
    stream: bytes | None = None,
    palette: bytes = b"",
    interlaced: bool = False,
) -> Path:
    """Write a PNG by hand: a kind that Pillow does not write, or one whose header promises too much."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"PLTE", palette) if palette else b"")
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(rows) if stream is None else stream)
        + chunk(b"IEND", b"")
    )
    return path


def check_one_line(error: ImageError, path: Path) -> str:
    message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


class TestKinds:
    def test_8_bit_rgb_is_exact_and_writable(self, tmp_path):
        Image.fromarray(photo()).save(tmp_path / "a.png")
        image = read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(image, photo())
        assert image.dtype == np.uint8 and image.flags.writeable and image.flags.c_contiguous

    def test_a_string_is_a_path(self, tmp_path):
        Image.fromarray(photo()).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), photo())

    @pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tif", "ppm"])
    def test_formats(self, tmp_path, suffix):
        Image.fromarray(photo()).save(tmp_path / f"a.{suffix}", quality=95)
        difference = read_image(tmp_path / f"a.{suffix}").astype(int) - photo()
        assert np.abs(difference).mean() < 4

    def test_gray(self, tmp_path):
        Image.fromarray(photo()[..., 0]).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo()[..., :1].repeat(3, axis=2))

    def test_bilevel(self, tmp_path):
        Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").tolist() == [[[255] * 3, [0] * 3]]

    def test_palette(self, tmp_path):
        image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
        image.putpalette([*RED, *GREEN, *BLUE])
        image.save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").tolist() == [[[*RED], [*GREEN]], [[*BLUE], [*GREEN]]]

    def test_palette_with_a_transparent_entry(self, tmp_path):
        image = Image.fromarray(np.array([[0, 1]], np.uint8))
        image.putpalette([*RED, *GREEN])
        image.save(tmp_path / "a.png", transparency=1)
        assert read_image(tmp_path / "a.png").tolist() == [[[*RED], [*WHITE]]]

    def test_alpha_is_composited_on_white(self, tmp_path):
        pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 128], [0, 0, 0, 0]]], np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").tolist() == [[[255, 0, 0], [255, 127, 127], [255, 255, 255]]]

    def test_gray_with_alpha(self, tmp_path):
        Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").tolist() == [[[100] * 3, [255] * 3]]

    def test_rgb_with_a_transparent_colour(self, tmp_path):
        Image.fromarray(np.array([[RED, GREEN]], np.uint8)).save(tmp_path / "a.png", transparency=GREEN)
        assert read_image(tmp_path / "a.png").tolist() == [[[*RED], [*WHITE]]]

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_16_bit_gray_is_scaled_from_the_full_range(self, tmp_path, suffix):
        values = np.array([[0, 257, 32896, 65535]], np.uint16)
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        assert read_image(tmp_path / f"a.{suffix}")[0, :, 0].tolist() == [0, 1, 128, 255]

    def test_16_bit_colour(self, tmp_path):
        row = struct.pack(">6H", 65535, 0, 32896, 0, 257, 65535)
        path = png(tmp_path / "a.png", width=2, height=1, depth=16, colour=2, rows=b"\0" + row)
        assert read_image(path).tolist() == [[[255, 0, 128], [0, 1, 255]]]

    def test_32_bit_integers_within_16_bits(self, tmp_path):
        Image.fromarray(np.array([[0, 65535]], np.int32)).save(tmp_path / "a.tif")
        assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 255]

    def test_cmyk(self, tmp_path):
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
        assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - RED).max() <= 3

    @pytest.mark.parametrize(("orientation", "rotation"), [(3, 2), (6, 3), (8, 1)])
    def test_exif_orientation(self, tmp_path, orientation, rotation):
        upright = photo()
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.rot90(upright, -rotation).copy()).save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright)

    def test_the_caller_s_image_is_not_turned(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(photo()).save(tmp_path / "a.png", exif=exif)
        with Image.open(tmp_path / "a.png") as image:
            first, second = rgb_array(image), rgb_array(image)
            assert image.size == photo().shape[1::-1] and image.getexif()[0x0112] == 6
        np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("block", [b"no TIFF header", b"MM\0*\0"], ids=["header", "short"])
    def test_damaged_exif_is_ignored(self, tmp_path, block):
        Image.fromarray(photo()).save(tmp_path / "a.png", exif=b"Exif\0\0" + block)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo())

    @pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
    def test_of_several_frames_the_first(self, tmp_path, suffix):
        frames = [Image.new("RGB", (9, 7), colour) for colour in (RED, BLUE)]
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
        assert (read_image(tmp_path / f"a.{suffix}") == RED).all()

    def test_pillow_images_follow_the_same_rules(self):
        assert rgb_array(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).tolist() == [[[*WHITE]]]


class TestFailures:
    def fails(self, path: Path) -> str:
        with pytest.raises(ImageError) as caught:
            read_image(path)
        return check_one_line(caught.value, path)

    def test_an_error_of_the_system_is_not_called_damage(self, tmp_path):
        assert self.fails(tmp_path / f"{'a' * 300}.png").endswith(".png: cannot be read, file name too long")

    def test_missing(self, tmp_path):
        assert "no such file" in self.fails(tmp_path / "a.png")

    def test_folder(self, tmp_path):
        assert "folder" in self.fails(tmp_path)

    def test_empty(self, tmp_path):
        (tmp_path / "a.png").touch()
        assert "empty" in self.fails(tmp_path / "a.png")

    @pytest.mark.parametrize(
        "content",
        [b"not an image\nbut text", bytes(range(1, 256)) * 9, bytes(999)],
        ids=["text", "bytes", "zeros"],
    )
    def test_no_image(self, tmp_path, content):
        (tmp_path / "a.jpg").write_bytes(content)
        assert "not an image" in self.fails(tmp_path / "a.jpg")

    @pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif"])
    @pytest.mark.parametrize("kept", [0.4, 0.9])
    def test_truncated(self, tmp_path, suffix, kept):
        path = tmp_path / f"a.{suffix}"
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        self.fails(path)

    def test_damaged_in_the_middle(self, tmp_path):
        path = tmp_path / "a.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
        path.write_bytes(content)
        assert "cannot be decoded" in self.fails(path)

    def test_huge_names_the_cure(self, tmp_path):
        path = png(tmp_path / "a.png", width=30_000, height=20_000, depth=8, colour=2, rows=b"")
        message = self.fails(path)
        assert "600,000,000 pixels" in message and "MAX_IMAGE_PIXELS" in message and "--max-pixels" in message

    def test_a_raised_limit_is_respected(self, tmp_path, monkeypatch):
        Image.fromarray(photo(40, 40)).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
        assert "1,600 pixels" in self.fails(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1600)
        assert read_image(tmp_path / "a.png").shape == (40, 40, 3)

    def test_floating_point(self, tmp_path):
        Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
        assert "floating-point" in self.fails(tmp_path / "a.tif")

    def test_32_bits(self, tmp_path):
        Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "a.tif")
        assert "0..70000" in self.fails(tmp_path / "a.tif")

    @pytest.mark.parametrize("brand", [b"heic", b"hevc", b"mif1"])
    def test_heif_is_called_by_its_name(self, tmp_path, brand):
        (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(99))
        assert "is a HEIF file, which is not opened; convert it" in self.fails(tmp_path / "a.jpg")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
    def test_a_pipe_does_not_block(self, tmp_path):
        os.mkfifo(tmp_path / "a.png")
        assert "not a regular file" in self.fails(tmp_path / "a.png")
