"""What Pillow takes from a header otherwise than it is meant comes out as the file says."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.images import read_image, rgb_array
from segnext.data.labels import read_colours, read_label
from tests.data.test_depth import tiff
from tests.data.test_images import png


def packed(values: Sequence[int], bits: int) -> bytes:
    """Pack numbers of few bits, the first in the highest ones."""
    digits = "".join(f"{value:0{bits}b}" for value in values)
    digits += "0" * (-len(digits) % 8)
    return bytes(int(digits[start : start + 8], 2) for start in range(0, len(digits), 8))


def bmp(
    path: Path, indices: np.ndarray, bits: int, grays: Sequence[int], *, core: bool = False, rle: bool = False
) -> Path:
    """Write a BMP with a palette of gray by hand; `core` with the header of OS/2."""
    height, width = indices.shape
    rows = [packed(row.tolist(), bits) for row in indices[::-1]]
    body = b"".join(row + bytes(-len(row) % 4) for row in rows)
    if rle:  # each pixel is a run of one
        pair = (lambda value: bytes([1, value << 4])) if bits == 4 else (lambda value: bytes([1, value]))
        body = b"".join(b"".join(map(pair, row)) + b"\0\0" for row in indices[::-1].tolist()) + b"\0\1"
    if core:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
        palette = b"".join(bytes([gray] * 3) for gray in grays)
    else:
        compression = {8: 1, 4: 2}[bits] if rle else 0
        numbers = (40, width, height, 1, bits, compression, len(body), 0, 0, len(grays), 0)
        header = struct.pack("<IiiHHIIiiII", *numbers)
        palette = b"".join(bytes([gray] * 3 + [0]) for gray in grays)
    start = 14 + len(header) + len(palette)
    path.write_bytes(b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body)
    return path


class TestBmp:
    """Pillow drops a palette of gray, and then takes a pixel to have the bits of its mode."""

    @pytest.mark.parametrize("rle", [False, True])
    @pytest.mark.parametrize(
        ("bits", "grays"),
        [
            (8, (0, 255)),
            (4, (0, 255)),
            (4, range(16)),
            (4, range(0, 256, 17)),
            (8, range(3)),
            (8, range(256)),
        ],
        ids=["8-two", "4-two", "4-low", "4-full", "8-three", "8-full"],
    )
    def test_indices_and_their_gray(self, tmp_path, bits, grays, rle):
        indices = np.random.default_rng(0).integers(0, len(grays), (5, 7))
        path = bmp(tmp_path / "a.bmp", indices, bits, grays, rle=rle)
        colours = np.array(grays)[indices]
        np.testing.assert_array_equal(read_label(path), indices)
        np.testing.assert_array_equal(read_colours(path), colours * 0x010101)
        np.testing.assert_array_equal(read_image(path), colours[..., None].repeat(3, 2))
        with Image.open(path) as image:
            np.testing.assert_array_equal(rgb_array(image), colours[..., None].repeat(3, 2))

    @pytest.mark.parametrize(
        ("bits", "grays"), [(1, (0, 255)), (1, (255, 0)), (4, range(16)), (8, range(256))]
    )
    def test_the_short_header_has_its_bits_elsewhere(self, tmp_path, bits, grays):
        indices = np.random.default_rng(0).integers(0, len(grays), (5, 7))
        path = bmp(tmp_path / "a.bmp", indices, bits, grays, core=True)
        np.testing.assert_array_equal(read_label(path), indices)
        np.testing.assert_array_equal(read_colours(path), np.array(grays)[indices] * 0x010101)

    def test_pixels_of_16_bits_are_no_channels_of_16(self, tmp_path):
        header = struct.pack("<IiiHHIIiiII", 40, 3, 1, 1, 16, 3, 0, 0, 0, 0, 0)
        masks, pixels = (
            struct.pack("<III", 0xF800, 0x07E0, 0x001F),
            struct.pack("<4H", 0xF800, 0x07E0, 0x001F, 0),
        )
        start = struct.pack("<IHHI", 14 + len(header + masks + pixels), 0, 0, 14 + len(header + masks))
        (tmp_path / "a.bmp").write_bytes(b"BM" + start + header + masks + pixels)
        colours = [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
        assert read_image(tmp_path / "a.bmp").tolist() == colours
        assert read_colours(tmp_path / "a.bmp").tolist() == [[0xFF0000, 0xFF00, 0xFF]]

    def test_a_mask_that_pillow_writes(self, tmp_path):
        mask = np.zeros((64, 64), np.uint8)
        mask[32:] = 1
        image = Image.fromarray(mask)
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(tmp_path / "a.bmp")
        np.testing.assert_array_equal(read_label(tmp_path / "a.bmp"), mask)
        np.testing.assert_array_equal(read_image(tmp_path / "a.bmp"), (mask * 255)[..., None].repeat(3, 2))


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "expected"),
    [
        (1, (0, 1, 0, 1), 0, [255, 255, 255, 255]),
        (2, (0, 1, 2, 3), 1, [0, 255, 170, 255]),
        (4, (0, 5, 10, 15), 5, [0, 255, 170, 255]),
        (4, (0, 5, 10, 15), 85, [0, 255, 170, 255]),  # only the low bits count
        (8, (0, 5, 10, 15), 0x105, [0, 255, 10, 15]),
        (8, (0, 5, 10, 15), 85, [0, 5, 10, 15]),
    ],
)
def test_the_transparent_gray_of_a_png_is_that_of_the_file(tmp_path, bits, row, transparent, expected):
    """Pillow stretches pixels of few bits to 0..255, and not the value that is transparent."""
    path = png(tmp_path / "a.png", 4, 1, bits, 0, b"\0" + packed(row, bits), struct.pack(">H", transparent))
    assert read_image(path)[0, :, 0].tolist() == expected
    with Image.open(path) as image:
        assert rgb_array(image)[0, :, 0].tolist() == expected
        assert rgb_array(image)[0, :, 0].tolist() == expected


class TestTga:
    @staticmethod
    def written(path: Path, pixels: bytes, bits: int, attributes: int, kind: int = 2) -> Path:
        head = struct.pack("<BBBHHBHHHHBB", 0, 0, kind, 0, 0, 0, 0, 0, 2, 1, bits, 0x20 | attributes)
        path.write_bytes(head + pixels)
        return path

    def test_alpha_that_is_not_declared_means_nothing(self, tmp_path):
        pixels = bytes([3, 2, 1, 0, 6, 5, 4, 0])
        path = self.written(tmp_path / "a.tga", pixels, bits=32, attributes=0)
        assert read_image(path).tolist() == [[[1, 2, 3], [4, 5, 6]]]
        runs = b"\0" + pixels[:4] + b"\0" + pixels[4:]
        path = self.written(tmp_path / "a.tga", runs, bits=32, attributes=0, kind=10)
        assert read_image(path).tolist() == [[[1, 2, 3], [4, 5, 6]]]
        path = self.written(tmp_path / "a.tga", pixels, bits=32, attributes=8)
        assert read_image(path).tolist() == [[[255] * 3, [255] * 3]]

    def test_a_small_file_of_16_bits(self, tmp_path):
        pixels = struct.pack("<2H", 0x7C00, 0x03E0)
        path = self.written(tmp_path / "a.tga", pixels, bits=16, attributes=0)
        assert read_image(path).tolist() == [[[255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("factor", [1, 257])
def test_the_palette_of_a_tiff_has_8_or_16_bits(tmp_path, factor):
    """Pillow divides all its numbers by 256; a palette without one above 255 has 8 bits, as libtiff takes it."""
    colours = np.random.default_rng(0).integers(0, 256, (256, 3))
    indices = np.random.default_rng(1).integers(0, 256, (5, 7), np.uint8)
    path = tiff(
        tmp_path / "a.tif", indices[..., None], photometric=3, palette=(colours.T.ravel() * factor).tolist()
    )
    np.testing.assert_array_equal(read_image(path), colours[indices])
    np.testing.assert_array_equal(read_colours(path), (colours @ (1 << 16, 1 << 8, 1))[indices])
    np.testing.assert_array_equal(read_label(path), indices)
