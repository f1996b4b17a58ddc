"""Every kind of label file gives its ids or its colours, or one line that says why it does not."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.images import ImageError
from segnext.data.labels import LabelReader, read_colours, read_label
from tests.data.test_depth import tiff
from tests.data.test_images import png

IDS = np.array([[0, 1, 10], [255, 7, 3]], np.uint8)
BLACK_RED_WHITE = np.array([[[0, 0, 0], [255, 0, 0]], [[255, 255, 255], [255, 0, 0]]], np.uint8)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


class TestIds:
    @pytest.mark.parametrize(
        "kind", ["gray.png", "16-bit.png", "rgb.png", "rgba.png", "la.png", "a.PGM", "a.tif"]
    )
    def test_every_kind_of_file_gives_the_same_ids(self, tmp_path, kind):
        pixels = IDS.astype(np.uint16) if kind.startswith("16") else IDS
        mode = kind.partition(".")[0].upper()
        path = saved(tmp_path / kind, pixels, mode if mode in ("RGB", "RGBA", "LA") else None)
        label = read_label(path)
        np.testing.assert_array_equal(label, IDS)
        assert label.dtype == np.uint8 and label.flags.writeable and label.flags.c_contiguous

    def test_colours_of_a_palette_are_ignored(self, tmp_path):
        image = Image.fromarray(IDS)
        image.putpalette(list(range(255, -1, -1)) * 3)
        image.save(tmp_path / "a.png", transparency=0)
        np.testing.assert_array_equal(read_label(tmp_path / "a.png"), IDS)

    def test_bilevel(self, tmp_path):
        path = saved(tmp_path / "a.png", np.array([[True, False]]))
        assert read_label(path).tolist() == [[1, 0]] and read_label(path).dtype == np.uint8

    def test_ids_of_16_bits(self, tmp_path):
        ids = np.array([[0, 256, 65535]], np.uint16)
        for suffix in ("png", "tif"):
            label = read_label(saved(tmp_path / f"a.{suffix}", ids))
            assert label.dtype == np.uint16
            np.testing.assert_array_equal(label, ids)

    def test_ids_are_the_numbers_in_the_file(self, tmp_path):
        """Pillow stretches gray of 2 and 4 bits, and a PNM file whose largest number is not 255, as brightness."""
        small = np.array([[0, 1, 2, 3]], np.uint8)
        (tmp_path / "a.pgm").write_bytes(b"P5 4 1 3\n" + small.tobytes())
        (tmp_path / "b.pgm").write_bytes(b"P2 4 1 150\n0 1 2 3\n")
        (tmp_path / "c.pgm").write_bytes(b"P5 4 1 1000\n" + small.astype(">u2").tobytes())
        (tmp_path / "d.ppm").write_bytes(b"P6 4 1 3\n" + small.repeat(3).tobytes())
        png(tmp_path / "e.png", 4, 1, depth=2, colour=0, rows=bytes([0, 0b00011011]))
        png(tmp_path / "f.png", 4, 1, depth=4, colour=0, rows=bytes([0, 0x01, 0x23]))
        tiff(tmp_path / "g.tif", small[..., None], photometric=0)  # 0 is white
        for path in sorted(tmp_path.iterdir()):
            np.testing.assert_array_equal(read_label(path), small, path.name)
        (tmp_path / "h.ppm").write_bytes(b"P6 1 1 3\n" + bytes([3, 0, 1]))  # a colour is not a number
        assert read_colours(tmp_path / "h.ppm").tolist() == [[0xFF0055]]

    @pytest.mark.parametrize("colour", [2, 4, 6], ids=["rgb", "gray-alpha", "rgba"])
    def test_several_channels_of_16_bits_are_refused(self, tmp_path, colour):
        """Pillow keeps the high byte of each, so that all ids below 256 would be 0."""
        channels = {2: 3, 4: 2, 6: 4}[colour]
        row = np.full((1, channels), 7, ">u2")
        row[:, 3 if colour == 6 else 1 :] = 65535 if colour != 2 else 7
        path = png(tmp_path / "a.png", 1, 1, depth=16, colour=colour, rows=b"\0" + row.tobytes())
        for read in (read_label, read_colours):
            with pytest.raises(ImageError, match="must have 8 bits per channel, got 16; save it as gray PNG"):
                read(path)

    @pytest.mark.parametrize("largest", [256, 1000, 65535])
    def test_colours_of_a_pnm_file_have_8_bits(self, tmp_path, largest):
        """Pillow has no mode for more; with a largest number of 255 it would take half a number for a whole one."""
        ids = np.array([0, 0, 0, 200, 200, 200], ">u2")
        (tmp_path / "a.ppm").write_bytes(b"P6 2 1 %d\n" % largest + ids.tobytes())
        (tmp_path / "b.ppm").write_bytes(b"P3 2 1 %d\n0 0 0 200 200 200\n" % largest)
        for path in sorted(tmp_path.iterdir()):
            for read in (read_label, read_colours):
                with pytest.raises(
                    ImageError, match="must have 8 bits per channel, got 16; save it as gray PNG"
                ):
                    read(path)

    @pytest.mark.parametrize("largest", [1, 15, 100, 254, 255])
    def test_three_equal_channels_of_a_pnm_file(self, tmp_path, largest):
        ids = np.array([0, 1, largest // 2, largest])
        (tmp_path / "a.ppm").write_bytes(b"P6 4 1 %d\n" % largest + ids.repeat(3).astype(np.uint8).tobytes())
        (tmp_path / "b.ppm").write_bytes(
            b"P3 4 1 %d\n" % largest + " ".join(map(str, ids.repeat(3))).encode()
        )
        for path in sorted(tmp_path.iterdir()):
            assert read_label(path).tolist() == [ids.tolist()]

    def test_a_turn_by_exif_is_taken_or_left(self, tmp_path):
        for name in ("a.png", "a.tif"):
            path = saved(tmp_path / name, IDS, exif=orientation(6))
            np.testing.assert_array_equal(read_label(path), np.rot90(IDS, -1))
            np.testing.assert_array_equal(read_label(path, upright=False), IDS)
        path = saved(tmp_path / "rgba.png", IDS, "RGBA", exif=orientation(3))
        np.testing.assert_array_equal(read_label(path), IDS[::-1, ::-1])


class TestTransparency:
    """A transparent pixel has no id and no colour, except that its index in a palette is its id."""

    KINDS = {  # bits, colour, row without its filter, transparent value that occurs, one that does not, ids, colours
        "gray-1": (1, 0, b"\x50", ">H", (1,), None, [0, 1, 0, 1], [0, 0xFFFFFF, 0, 0xFFFFFF]),
        "gray-2": (2, 0, b"\x12", ">H", (2,), (3,), [0, 1, 0, 2], [0, 0x555555, 0, 0xAAAAAA]),
        "gray-4": (4, 0, b"\x05\xa0", ">H", (5,), (7,), [0, 5, 10, 0], [0, 0x555555, 0xAAAAAA, 0]),
        "gray-8": (8, 0, b"\0\5\7\1", ">H", (7,), (8,), [0, 5, 7, 1], [0, 0x050505, 0x070707, 0x010101]),
        "gray-16": (16, 0, b"\0\0\1\5\0\7\0\1", ">H", (0x105,), (5,), [0, 261, 7, 1], None),
        "rgb": (8, 2, bytes(3) + b"\5" * 3 + b"\7" * 6, ">3H", (5, 5, 5), (5, 5, 7), [0, 5, 7, 7],
                [0, 0x050505, 0x070707, 0x070707]),
    }  # fmt: skip

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_transparent_value_is_refused_where_it_occurs(self, tmp_path, kind):
        depth, colour, row, packing, occurs, absent, ids, colours = self.KINDS[kind]
        readers = [(read_label, ids)] + ([(read_colours, colours)] if colours else [])
        path = tmp_path / "a.png"
        for read, expected in readers:
            png(path, 4, 1, depth, colour, b"\0" + row, struct.pack(packing, *occurs))
            with pytest.raises(
                ImageError, match=r"a\.png: a label map must be opaque, got transparent pixels"
            ):
                read(path)
            if absent is not None:
                png(path, 4, 1, depth, colour, b"\0" + row, struct.pack(packing, *absent))
                assert read(path).tolist() == [expected]

    @pytest.mark.parametrize("alphas", [b"\xff\0", b"\xff\x80\0"], ids=["one", "several"])
    def test_a_transparent_entry_of_a_palette(self, tmp_path, alphas):
        for row, is_opaque in ((b"\0\0\3\3", True), (b"\0\1\3\3", False)):
            path = png(tmp_path / "a.png", 4, 1, 8, 3, b"\0" + row, alphas, palette=bytes(range(12)))
            assert read_label(path).tolist() == [list(row)]
            if is_opaque:
                assert read_colours(path).tolist() == [[0x000102, 0x000102, 0x090A0B, 0x090A0B]]
            else:
                with pytest.raises(ImageError, match="must be opaque, got transparent pixels"):
                    read_colours(path)

    @pytest.mark.parametrize("palette", [[*range(256)] * 3, [9, 8, 7] * 256], ids=["gray", "colour"])
    def test_a_transparent_entry_of_a_gif(self, tmp_path, palette):
        """Pillow gives a GIF whose palette is gray as gray."""
        image = Image.fromarray(IDS)
        image.putpalette([value for value in range(256) for _ in "rgb"] if palette[1] == 1 else palette)
        image.save(tmp_path / "a.gif", transparency=7, optimize=False)
        np.testing.assert_array_equal(read_label(tmp_path / "a.gif"), IDS)
        with pytest.raises(ImageError, match="must be opaque, got transparent pixels"):
            read_colours(tmp_path / "a.gif")


def transparent() -> np.ndarray:
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[0, 0, 3] = 0
    return pixels


def test_unsigned_ids_of_32_bits(tmp_path):
    path = tiff(tmp_path / "a.tif", np.array([[[0], [300]]], np.uint32), photometric=1)
    assert read_label(path).tolist() == [[0, 300]]
    path = tiff(tmp_path / "a.tif", np.array([[[0], [2**32 - 1]]], np.uint32), photometric=1)
    with pytest.raises(ImageError, match=r"must be within 0\.\.65535, got 0\.\.4294967295"):
        read_label(path)


@pytest.mark.parametrize(
    ("pixels", "name", "options", "reason"),
    [
        (np.zeros((8, 8), np.uint8), "a.jpg", {}, "must be lossless, got JPEG"),
        (np.zeros((8, 8), np.uint8), "a.png", {"format": "JPEG"}, "must be lossless, got JPEG"),
        (np.zeros((8, 8), np.uint8), "a.tif", {"compression": "jpeg"}, "must be lossless, got TIFF"),
        (np.zeros((8, 8, 3), np.uint8), "a.webp", {}, "must be lossless, got WEBP"),
        (transparent(), "a.png", {}, "must be opaque, got transparent pixels (mode RGBA)"),
        (np.full((8, 8), 70000, np.int32), "a.tif", {}, "must be within 0..65535, got 70000..70000"),
        (np.full((8, 8), -1, np.int32), "a.tif", {}, "must be within 0..65535, got -1..-1"),
        (np.full((8, 8), 0.5, np.float32), "a.tif", {}, "must have one channel of class ids, got mode F"),
        (BLACK_RED_WHITE, "a.png", {}, "got colours; if they are the palette's, say color_labels: true"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_is_no_label_map_of_ids(tmp_path, pixels, name, options, reason):
    path = saved(tmp_path / name, pixels, **options)
    with pytest.raises(ImageError) as caught:
        read_label(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and reason in message and "\n" not in message


class TestColours:
    def test_rgb_palette_and_gray(self, tmp_path):
        expected = [[0, 0xFF0000], [0xFFFFFF, 0xFF0000]]
        for mode in ("RGB", "RGBA"):
            path = saved(tmp_path / f"{mode}.png", BLACK_RED_WHITE, mode)
            assert read_colours(path).tolist() == expected
        Image.fromarray(BLACK_RED_WHITE).quantize(3).save(tmp_path / "p.png")
        assert read_colours(tmp_path / "p.png").tolist() == expected
        path = saved(tmp_path / "gray.png", np.array([[0, 16]], np.uint8))
        assert read_colours(path).tolist() == [[0, 0x101010]]
        path = saved(tmp_path / "turned.png", BLACK_RED_WHITE, exif=orientation(3))
        assert read_colours(path).tolist() == [[0xFF0000, 0xFFFFFF], [0xFF0000, 0]]

    def test_refused(self, tmp_path):
        with pytest.raises(ImageError, match=r"must be 8-bit RGB or have a palette, got mode I;16"):
            read_colours(saved(tmp_path / "a.png", IDS.astype(np.uint16)))
        with pytest.raises(ImageError, match="must be lossless, got JPEG"):
            read_colours(saved(tmp_path / "a.jpg", BLACK_RED_WHITE))
        with pytest.raises(ImageError, match="must be opaque"):
            read_colours(saved(tmp_path / "b.png", transparent()))


class TestReader:
    def test_a_map_of_16_bit_ids(self, tmp_path):
        path = saved(tmp_path / "a.png", np.array([[0, 1000, 40000]], np.uint16))
        reader = LabelReader(2, label_map={0: 255, 1000: 0, 40000: 1})
        assert reader.classes(reader.read(path), path).tolist() == [[255, 0, 1]]
        with pytest.raises(
            ValueError, match=r"ids in .*a\.png must be 0\.\.1, or 255 .*, got 1000, 40000 in 67 %"
        ):
            LabelReader(2).classes(reader.read(path), path)

    @pytest.mark.parametrize(("num_classes", "ignored"), [(300, 255), (0, 255), (3, -100), (3, 256)])
    def test_class_ids_have_8_bits(self, num_classes, ignored):
        with pytest.raises(ValueError, match=rf"class ids have 8 bits, got {num_classes} and {ignored}"):
            LabelReader(num_classes, ignored)

    def test_binary_masks_in_every_file_format(self, tmp_path):
        """A map of 255 to a class holds although 255 stands for ignored pixels in what the reader gives."""
        reader = LabelReader(2, label_map={0: 0, 255: 1})
        path = saved(tmp_path / "a.png", np.array([[0, 255]], np.uint8))
        assert reader.classes(reader.read(path), path).tolist() == [[0, 1]]

    def test_colours(self, tmp_path):
        colours = {(0, 0, 0): 255, (255, 0, 0): 0, (255, 255, 255): 1}
        reader = LabelReader(2, colours=colours)
        path = saved(tmp_path / "a.png", BLACK_RED_WHITE)
        classes = reader.classes(reader.read(path), path)
        assert classes.dtype == np.uint8 and classes.tolist() == [[255, 0], [1, 0]]
        del colours[0, 0, 0]
        reader = LabelReader(2, colours=colours)
        with pytest.raises(
            ValueError,
            match=r"colours in .*a\.png must be in the data YAML's palette or ignore_colors, got \[0, 0, 0\] in 25 %",
        ):
            reader.classes(reader.read(path), path)
