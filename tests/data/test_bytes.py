"""Tests `decode_image`: the bytes of a file give what the file gives, and the same kinds of errors."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.images import decode_image, image_size, read_image
from segnext.data.opening import ImageError, ImageTooLarge, UnknownFormat

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def files() -> dict[str, tuple[Image.Image, dict]]:
    colour, gray16 = Image.fromarray(PIXELS), Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    alpha = Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]]))
    return {
        "jpeg": (colour, {"format": "JPEG"}),
        "turned": (colour, {"format": "JPEG", "exif": turned(6)}),
        "alpha": (alpha, {"format": "PNG"}),
        "palette": (colour.quantize(8), {"format": "PNG"}),
        "gray16": (gray16, {"format": "PNG"}),
        "tiff": (colour, {"format": "TIFF"}),
        "tiff16": (gray16, {"format": "TIFF"}),
        "webp": (colour, {"format": "WEBP", "lossless": True}),
        "interlaced": (colour, {"format": "PNG", "interlace": True}),
    }


@pytest.mark.parametrize("kind", files())
def test_bytes_give_what_the_file_gives(kind: str, tmp_path: Path) -> None:
    image, options = files()[kind]
    content = io.BytesIO()
    image.save(content, **options)
    (tmp_path / "file").write_bytes(content.getvalue())
    expected, got = read_image(tmp_path / "file"), decode_image(content.getvalue())
    np.testing.assert_array_equal(got, expected)
    assert got.flags.writeable and got.flags.c_contiguous
    assert image_size(content.getvalue()) == (20, 30)  # as stored


def test_more_pixels_than_allowed_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, format="PNG")
    assert decode_image(content.getvalue(), most_pixels=600).shape == PIXELS.shape
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    for read in (decode_image, image_size):
        with pytest.raises(
            ImageTooLarge, match="^image: must have at most 599 pixels, got 30 x 20; scale it down"
        ):
            read(content.getvalue(), most_pixels=599)


def test_pillows_limit_holds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, format="PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings(), pytest.raises(ImageTooLarge, match="over Pillow's safety limit of 200"):
        warnings.simplefilter("ignore")
        decode_image(content.getvalue())


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"", ImageError, "image: the file is empty"),
        (b"hello", UnknownFormat, "image: not an image in a format that is read"),
        (b"%PDF-1.7", UnknownFormat, "image: is a PDF file"),
        (
            b"II*\x00\x08\x00\x00\x00\xff\xff",
            UnknownFormat,
            "image: not an image, its TIFF header is damaged",
        ),
    ],
)
def test_what_is_no_image(content: bytes, kind: type[ImageError], says: str) -> None:
    with pytest.raises(kind, match=says) as raised:
        decode_image(content)
    assert type(raised.value) is kind


def test_cut_files_are_damaged() -> None:
    for options in ({"format": "PNG"}, {"format": "JPEG"}, {"format": "TIFF"}):
        content = io.BytesIO()
        Image.fromarray(PIXELS).save(content, **options)
        with pytest.raises(ImageError, match="image: cannot be decoded, it is damaged or truncated"):
            decode_image(content.getvalue()[: len(content.getvalue()) // 2])
