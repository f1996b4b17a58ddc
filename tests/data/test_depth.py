"""More than 8 bits per channel and more than three bands: scaled by declaration, or with a warning, or refused."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.depth import ImageWarning
from segnext.data.images import ImageError, read_image, rgb_array
from tests.data.test_images import png

RNG = np.random.default_rng(0)
TWELVE = RNG.integers(0, 4096, (5, 7, 3)).astype(np.uint16)
TWELVE[0, 0] = 4095
FULL = RNG.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
FULL[0, 0] = 65535


def scaled(values: np.ndarray, high: float, low: float = 0) -> np.ndarray:
    return (
        np.floor((values.astype(np.float64) - low) * 255 / (high - low) + 0.5).clip(0, 255).astype(np.uint8)
    )


def deep_png(path: Path, values: np.ndarray, transparent: bytes = b"") -> Path:
    """Write (H, W, C) values of 16 bits; C = 1 gray, 2 with alpha, 3 RGB, 4 with alpha."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png(path, width, height, depth=16, colour=colour, rows=rows, transparent=transparent)


def tiff(
    path: Path,
    values: np.ndarray,
    order: str = "<",
    *,
    extra: int | None = None,
    photometric: int = 2,
    planes: int = 1,
    compress: bool = False,
    kind: int = 1,
    palette: Sequence[int] = (),
) -> Path:
    """Write a TIFF by hand, also of kinds that Pillow does not write."""
    height, width, bands = values.shape
    bits = 8 * values.dtype.itemsize
    pixels = np.moveaxis(values, 2, 0) if planes == 2 else values
    body = pixels.astype(values.dtype.newbyteorder(order)).tobytes()
    body = zlib.compress(body) if compress else body
    after = 8 + len(body)
    plane = len(body) // bands
    counts = [plane] * bands if planes == 2 else [len(body)]
    offsets = [8 + plane * index for index in range(len(counts))]
    tags = [
        (256, [width], "I"),
        (257, [height], "I"),
        (258, [bits] * bands, "H"),
        (259, [8 if compress else 1], "H"),
    ]
    tags += [(262, [photometric], "H"), (273, offsets, "I"), (277, [bands], "H"), (278, [height], "I")]
    tags += [(279, counts, "I"), (284, [planes], "H")]
    if palette:
        tags.append((320, palette, "H"))
    if extra is not None:
        tags.append((338, [extra] + [0] * (bands - 4), "H"))
    if kind != 1:  # 2 signed, 3 floating point
        tags.append((339, [kind] * bands, "H"))
    entries, values_after = b"", b""
    start = after + 2 + 12 * len(tags) + 4
    for tag, numbers, kind in tags:
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        field = packed.ljust(4, b"\0")
        if len(packed) > 4:
            field = struct.pack(f"{order}I", start + len(values_after))
            values_after += packed
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + field
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HI", 42, after)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values_after
    path.write_bytes(head + body + directory)
    return path


class TestRange:
    def test_colour_is_read_to_the_last_bit(self, tmp_path):
        for path in (
            deep_png(tmp_path / "a.png", FULL),
            tiff(tmp_path / "a.tif", FULL),
            tiff(tmp_path / "b.tif", FULL, ">"),
            tiff(tmp_path / "c.tif", FULL, compress=True),
            tiff(tmp_path / "d.tif", FULL, ">", compress=True),
        ):
            np.testing.assert_array_equal(read_image(path), scaled(FULL, 65535))

    def test_a_declared_range_scales_and_clips_colour_and_gray(self, tmp_path):
        gray = TWELVE[..., :1]
        for values in (TWELVE, gray):
            for path in (deep_png(tmp_path / "a.png", values), self.gray_or_colour(tmp_path, values)):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    image = read_image(path, (100, 3000))
                np.testing.assert_array_equal(image, np.broadcast_to(scaled(values, 3000, 100), (5, 7, 3)))

    @staticmethod
    def gray_or_colour(folder: Path, values: np.ndarray) -> Path:
        return tiff(folder / "a.tif", values, photometric=2 if values.shape[2] == 3 else 1)

    @pytest.mark.parametrize(
        ("largest", "bits"),
        [(255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14)],
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_an_undeclared_range_is_measured_and_said(self, tmp_path, largest, bits, channels):
        values = np.full((2, 2, channels), largest // 2, np.uint16)
        values[0, 0] = largest
        with pytest.warns(
            ImageWarning, match=rf"use {bits} bits are scaled from 0\.\.{2**bits - 1};.*value_range"
        ):
            image = read_image(deep_png(tmp_path / "a.png", values))
        np.testing.assert_array_equal(image, np.broadcast_to(scaled(values, 2**bits - 1), (2, 2, 3)))

    def test_a_file_that_names_its_largest_value_is_not_measured(self, tmp_path):
        (tmp_path / "a.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([1000, 30], ">u2").tobytes())
        assert read_image(tmp_path / "a.pgm")[0, :, 0].tolist() == [62, 2]

    def test_a_declared_range_is_of_the_numbers_in_the_file(self, tmp_path):
        """Pillow stretches files that name their largest number: 4095 comes as 65535 or 65520."""
        values = np.array([[1000, 0, 3000, 4000]], np.uint16)
        (tmp_path / "a.pgm").write_bytes(b"P5 4 1 4095\n" + values.astype(">u2").tobytes())
        (tmp_path / "b.pgm").write_bytes(b"P2 4 1 4095\n" + b" ".join(b"%d" % value for value in values[0]))
        (tmp_path / "c.pgm").write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
        # Pillow writes JPEG 2000 of 16 bits alone. A stream that says 12 is read with another offset: 2048, not 32768.
        Image.fromarray(values + 30720).save(tmp_path / "d.jp2", no_jp2=True)
        content = bytearray((tmp_path / "d.jp2").read_bytes())
        content[content.index(b"\xff\x4f\xff\x51") + 42] = 12 - 1
        (tmp_path / "d.jp2").write_bytes(content)
        np.testing.assert_array_equal(read_image(tmp_path / "d.jp2")[..., 0], scaled(values, 4095))
        for name in ("a.pgm", "b.pgm", "c.pgm", "d.jp2"):
            np.testing.assert_array_equal(
                read_image(tmp_path / name, (0, 3000))[..., 0], scaled(values, 3000)
            )

    def test_a_range_is_refused_where_only_8_bits_are_read(self, tmp_path):
        (tmp_path / "a.ppm").write_bytes(b"P6 1 1 4095\n" + bytes(6))
        assert read_image(tmp_path / "a.ppm").tolist() == [[[0, 0, 0]]]
        with pytest.raises(ImageError, match=r"a\.ppm: colours of more than 8 bits .*, got PPM; save"):
            read_image(tmp_path / "a.ppm", (0, 3000))

    def test_8_bits_stay_as_they_are(self, tmp_path):
        Image.fromarray(np.array([[[1, 2, 3]]], np.uint8)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png", (0, 4095)).tolist() == [[[1, 2, 3]]]

    def test_floating_point_and_32_bits_by_declaration(self, tmp_path):
        Image.fromarray(np.array([[-1, 0.5, 1]], np.float32)).save(tmp_path / "a.tif")
        assert read_image(tmp_path / "a.tif", (0, 1))[0, :, 0].tolist() == [0, 128, 255]
        Image.fromarray(np.array([[-5, 0, 100_000]], np.int32)).save(tmp_path / "b.tif")
        assert read_image(tmp_path / "b.tif", (-5, 100_000))[0, :, 0].tolist() == [0, 0, 255]

    def test_unsigned_integers_of_32_bits(self, tmp_path):
        """Pillow takes them for signed ones."""
        values = np.array([[[0], [2**31], [2**32 - 1]]], np.uint32)
        path = tiff(tmp_path / "a.tif", values, photometric=1)
        assert read_image(path, (0, 2**32 - 1))[0, :, 0].tolist() == [0, 128, 255]
        with pytest.raises(ImageError, match=r"must be within 0\.\.65535, got 0\.\.4294967295; declare"):
            read_image(path)

    def test_narrow_ranges(self, tmp_path):
        """float32 would round 1,000,000,100 to the next multiple of 64, and take 0 / 1e-40 for NaN."""
        values = np.array([[1_000_000_000, 1_000_000_100, 1_000_000_255]], np.int32)
        Image.fromarray(values).save(tmp_path / "a.tif")
        assert read_image(tmp_path / "a.tif", (1e9, 1e9 + 255))[0, :, 0].tolist() == [0, 100, 255]
        path = tiff(tmp_path / "b.tif", np.array([[[0], [1]]], np.float32), kind=3, photometric=1)
        for high in (1e-40, 5e-324):
            assert read_image(path, (0, high))[0, :, 0].tolist() == [0, 255]

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_non_finite_pixels_are_refused(self, tmp_path, bad):
        Image.fromarray(np.array([[0, bad]], np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(ImageError, match="finite numbers, got NaN or infinity"):
            read_image(tmp_path / "a.tif", (0, 1))

    @pytest.mark.parametrize(
        "bad",
        [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (1,), (1, 2, 3), (-1e308, 1e308), (0, 10**400)],
        ids=["equal", "falling", "inf", "nan", "one", "three", "too-wide", "too-large"],
    )
    def test_what_is_no_range(self, bad):
        with pytest.raises(ValueError, match="^read_image: value_range must be two finite numbers"):
            read_image("none.png", bad)


class TestBands:
    def test_alpha_with_16_bits_is_composited_on_white(self, tmp_path):
        for colour in ([65535, 0, 32896], [32896]):
            values = np.array([[[*colour, 65535], [*colour, 0]]], np.uint16)
            opaque = [255, 0, 128] if len(colour) == 3 else [128] * 3
            assert read_image(deep_png(tmp_path / "a.png", values)).tolist() == [[opaque, [255] * 3]]

    def test_a_transparent_value_with_16_bits_is_white(self, tmp_path):
        values = np.array([[[65535, 0, 300], [65535, 0, 301]]], np.uint16)
        path = deep_png(tmp_path / "a.png", values, struct.pack(">3H", 65535, 0, 300))
        assert read_image(path).tolist() == [[[255] * 3, [255, 0, 1]]]
        path = deep_png(tmp_path / "b.png", np.array([[[65535], [300]]], np.uint16), struct.pack(">H", 300))
        assert read_image(path).tolist() == [[[255] * 3, [255] * 3]]

    @pytest.mark.parametrize("extra", [None, 0, 1, 2])
    @pytest.mark.parametrize("depth", [8, 16])
    def test_the_fourth_band_of_a_tiff_is_left_out(self, tmp_path, extra, depth):
        values = np.full((4, 6, 4), 40, np.uint8)
        values[..., 3] = 10
        if depth == 16:
            values = values.astype(np.uint16) * 257
            values[0, 0] = 65535
        path = tiff(tmp_path / "a.tif", values, extra=extra)
        if extra == 0:  # said to be no alpha
            image = read_image(path)
        else:
            with pytest.warns(ImageWarning, match="last band of TIFF files is left out"):
                image = read_image(path)
        assert (image[1:] == 40).all() and image.shape == (4, 6, 3)

    @pytest.mark.filterwarnings("ignore::segnext.data.depth.ImageWarning")
    def test_a_tiff_that_is_not_turned_back_is_a_tiff_still(self, tmp_path):
        """Its fourth band is no alpha, as in a file without an orientation."""
        colours = RNG.integers(0, 256, (5, 7, 4), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(colours).save(tmp_path / "a.tif", exif=exif)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", upright=False), colours[..., :3])

    @pytest.mark.parametrize("bands", [5, 6])
    def test_further_bands_too(self, tmp_path, bands):
        path = tiff(tmp_path / "a.tif", np.full((4, 6, bands), 40, np.uint8), extra=0)
        assert (read_image(path) == 40).all()

    def test_gray_with_a_band(self, tmp_path):
        Image.fromarray(np.array([[[100, 0]]], np.uint8)).save(tmp_path / "a.tif")
        with pytest.warns(ImageWarning):
            assert read_image(tmp_path / "a.tif").tolist() == [[[100] * 3]]

    @pytest.mark.parametrize("bands", [4, 7])
    def test_bands_of_unknown_order_are_refused(self, tmp_path, bands):
        path = tiff(tmp_path / "a.tif", np.zeros((4, 6, bands), np.uint16), extra=0, photometric=1)
        with pytest.raises(ImageError, match=rf"a\.tif: a TIFF of {bands} bands of 16 bits.*PHOTOMETRIC=RGB"):
            read_image(path)

    @pytest.mark.parametrize(
        ("values", "options", "reason"),
        [
            (
                np.zeros((4, 6, 3), np.float32),
                {"kind": 3},
                "3 bands of 32 bits (floating-point numbers), which",
            ),
            (
                np.zeros((4, 6, 3), np.uint32),
                {},
                "3 bands of 32 bits (unsigned integers), which are not read; scale",
            ),
            (
                np.zeros((4, 6, 1), np.float64),
                {"kind": 3, "photometric": 1},
                "1 band of 64 bits (floating-point",
            ),
            (
                np.zeros((4, 6, 3), np.int16),
                {"kind": 2},
                "3 bands of 16 bits (signed integers), which are not read",
            ),
            (
                np.zeros((4, 6, 3), np.uint16),
                {"photometric": 8},
                "colour space that is not read (photometric 8)",
            ),
            (
                np.zeros((4, 6, 2), np.uint16),
                {"photometric": 1},
                "2 bands of 16 bits in a form that is not read",
            ),
            (
                np.zeros((4, 6, 1), np.int8),
                {"kind": 2, "photometric": 1},
                "signed numbers of 8 bits are not read",
            ),
            (
                np.zeros((4, 6, 1), np.uint16),
                {"photometric": 0},
                "in which 0 is white is not read; save it with 0",
            ),
            (
                np.zeros((4, 6, 1), np.float32),
                {"kind": 3, "photometric": 0},
                "in which 0 is white is not read",
            ),
        ],
        ids=[
            "float",
            "32-bit",
            "double",
            "signed",
            "lab",
            "2-bands",
            "signed-8",
            "white-is-0",
            "float-white-is-0",
        ],
    )
    def test_other_numbers_are_refused_by_what_they_are(self, tmp_path, values, options, reason):
        """Pillow takes signed numbers of 8 bits for others, and black for white in gray of 16 bits whose 0 is white."""
        with pytest.raises(ImageError, match=re.escape(reason)):
            read_image(tiff(tmp_path / "a.tif", values, **options), (0, 1))

    def test_gray_of_8_bits_whose_0_is_white(self, tmp_path):
        path = tiff(tmp_path / "a.tif", np.array([[[0], [200]]], np.uint8), photometric=0)
        assert read_image(path)[0, :, 0].tolist() == [255, 55]

    def test_16_bits_in_separate_planes_are_refused(self, tmp_path):
        with pytest.raises(ImageError, match="separate planes"):
            read_image(tiff(tmp_path / "a.tif", FULL, planes=2))

    def test_8_bits_in_separate_planes(self, tmp_path):
        colours = RNG.integers(0, 256, (5, 7, 3), np.uint8)
        np.testing.assert_array_equal(read_image(tiff(tmp_path / "a.tif", colours, planes=2)), colours)

    def test_an_opened_image_is_read_as_its_file_is(self, tmp_path):
        """Pillow keeps 8 of 16 bits when it decodes an image."""
        alpha = np.dstack([TWELVE, np.full((5, 7), 65535, np.uint16)])
        for path in (
            deep_png(tmp_path / "a.png", TWELVE),
            deep_png(tmp_path / "b.png", alpha),
            deep_png(tmp_path / "c.png", alpha[..., 2:]),
            tiff(tmp_path / "a.tif", TWELVE),
        ):
            for declared in (None, (0, 3000)):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    expected = read_image(path, declared)
                    with Image.open(io.BytesIO(path.read_bytes())) as image:
                        np.testing.assert_array_equal(rgb_array(image, declared), expected)
                        image.load()  # it is still good

    def test_a_closed_image(self, tmp_path):
        with Image.open(deep_png(tmp_path / "a.png", FULL)) as image:
            pass
        with pytest.raises(ImageError, match="closed before its pixels were read; open it again"):
            rgb_array(image)

    @pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
    def test_an_image_without_pixels(self, size):
        with pytest.raises(ImageError, match=rf"no pixels, its size is {size[0]}x{size[1]}"):
            rgb_array(Image.new("RGB", size))

    def test_premultiplied_gray(self):
        assert rgb_array(Image.new("La", (1, 1), (100, 255))).tolist() == [[[100] * 3]]

    def test_lab_is_refused(self):
        with pytest.raises(ImageError, match="Lab"):
            rgb_array(Image.new("LAB", (2, 2)))


class TestFormats:
    @pytest.mark.parametrize("name", ["photo.jpg", "photo.eps", "photo.png", "photo.tga"])
    @pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0", b"\xc5\xd0\xd3\xc6"])
    def test_postscript_never_starts_a_program(self, tmp_path, monkeypatch, name, start):
        called = tmp_path / "called"
        program = tmp_path / "bin" / "gs"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\ntouch '{called}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        path = tmp_path / name
        path.write_bytes(start + b"\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
        with pytest.raises(ImageError, match="PostScript file, which is not opened; convert it to PNG"):
            read_image(path)
        assert not called.exists()

    @pytest.mark.parametrize("kind", ["ICO", "PCX", "SGI", "XBM", "ICNS", "DDS", "TGA"])
    def test_other_formats_are_refused_whatever_their_name(self, tmp_path, kind):
        image = Image.new("1" if kind == "XBM" else "RGB", (64, 64))
        path = tmp_path / "photo.jpg"
        image.save(path, format=kind)
        with pytest.raises(ImageError, match="not an image in a format that is read"):
            read_image(path)

    def test_targa_by_its_name(self, tmp_path):
        Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "a.TGA")
        assert (read_image(tmp_path / "a.TGA") == (1, 2, 3)).all()

    @pytest.mark.parametrize(
        "format", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "QOI", "JPEG2000", "PPM"]
    )
    def test_a_name_is_not_the_content(self, tmp_path, format):
        Image.new("RGB", (32, 32), (200, 100, 50)).save(tmp_path / "a.txt", format=format)
        difference = read_image(tmp_path / "a.txt").astype(int) - (200, 100, 50)
        assert np.abs(difference).max() <= 3
