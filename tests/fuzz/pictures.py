"""Writes random image files of many kinds, with the pixels that a reader must give, and damages them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.test_depth import deep_png, tiff

SUFFIXES = ("png", "jpg", "tif", "webp", "gif", "bmp", "ppm", "JPEG", "txt", "eps", "tga", "")
WHITE = 255.0


def size(rng: np.random.Generator) -> tuple[int, int]:
    """Return height and width: mostly small, sometimes a line."""
    height, width = (int(side) for side in rng.integers(1, 48, 2))
    line = rng.random()
    return (1, int(rng.integers(1, 900))) if line < 0.06 else (height, 1) if line < 0.1 else (height, width)


def noise(rng: np.random.Generator, *shape: int, largest: int = 255) -> np.ndarray:
    return rng.integers(0, largest + 1, shape).astype(np.uint8 if largest < 256 else np.uint16)


def special(rng: np.random.Generator, folder: Path) -> tuple[Path, np.ndarray | None]:
    """Write a whole image of a random kind.

    Returns:
        Its path, and the (H, W, 3) pixels that it must give; None if it must be refused.
    """
    write = KINDS[int(rng.integers(len(KINDS)))]
    return write(rng, folder / f"photo {rng.integers(1000)}.{SUFFIXES[int(rng.integers(len(SUFFIXES)))]}")


def plain(rng: np.random.Generator, path: Path) -> tuple[Path, np.ndarray]:
    """A lossless file of 8 bits, with one of the eight turns of EXIF."""
    height, width = size(rng)
    form, channels = ("PNG", "TIFF", "BMP", "PPM", "WEBP", "QOI")[rng.integers(6)], int(rng.choice((1, 3)))
    pixels = noise(rng, height, width, channels)
    expected = np.broadcast_to(pixels, (height, width, 3))
    options: dict[str, object] = {"format": form}
    if form in ("PNG", "TIFF", "WEBP") and rng.random() < 0.5:
        options["exif"] = exif = Image.Exif()
        exif[0x0112] = turn = int(rng.integers(1, 9))
        expected = turned(expected, turn)
    if form == "TIFF":
        options["compression"] = str(rng.choice(("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")))
    if form == "WEBP":
        options["lossless"] = True
    if form == "QOI" or form == "WEBP":
        pixels = np.broadcast_to(pixels, (height, width, 3))
    Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)).save(
        path, **options
    )
    return path, np.ascontiguousarray(expected)


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Return pixels that EXIF says are turned by `turn`, upright."""
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(pixels, flips.get(turn, ()))


def with_alpha(rng: np.random.Generator, path: Path) -> tuple[Path, np.ndarray]:
    """A PNG with alpha: opaque and fully transparent pixels, which are white."""
    height, width = size(rng)
    channels = int(rng.choice((1, 3)))
    pixels, opaque = noise(rng, height, width, channels), rng.random((height, width, 1)) < 0.5
    alpha = np.where(opaque, 255, 0).astype(np.uint8)
    Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(path, format="PNG")
    return path, np.broadcast_to(np.where(opaque, pixels, 255), (height, width, 3)).astype(np.uint8)


def palette(rng: np.random.Generator, path: Path) -> tuple[Path, np.ndarray]:
    """Indexed colours as PNG, GIF or BMP; one of them may be transparent."""
    height, width = size(rng)
    colours = noise(rng, 256, 3)
    if rng.random() < 0.4:  # gray in even steps, which Pillow may take for no palette
        colours = np.linspace(0, 255, rng.choice((2, 4, 16, 256)))[:, None].repeat(3, 1).astype(np.uint8)
    ids = np.remainder(noise(rng, height, width), len(colours), dtype=np.int64).astype(np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(colours.tobytes())
    form = ("PNG", "GIF", "BMP")[rng.integers(3)]
    if form != "BMP" and rng.random() < 0.5:
        gone = int(rng.integers(len(colours)))
        image.save(path, format=form, transparency=gone)
        return path, np.where((ids == gone)[..., None], 255, colours[ids]).astype(np.uint8)
    image.save(path, format=form)
    return path, colours[ids]


def deep(rng: np.random.Generator, path: Path) -> tuple[Path, np.ndarray]:
    """A PNG or TIFF of 16 bits, of which 8 to 16 are used."""
    height, width = size(rng)
    bits, channels = int(rng.choice((8, 10, 12, 14, 16))), int(rng.choice((1, 3)))
    values = noise(rng, height, width, channels, largest=2**bits - 1).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    if rng.random() < 0.5:
        deep_png(path, values)
    else:
        order, photometric = str(rng.choice(("<", ">"))), 2 if channels == 3 else 1
        tiff(path, values, order, photometric=photometric, compress=bool(rng.random() < 0.5))
    scaled = np.floor(values * (255 / (2**bits - 1)) + 0.5).astype(np.uint8)
    return path, np.broadcast_to(scaled, (height, width, 3))


def bands(rng: np.random.Generator, path: Path) -> tuple[Path, np.ndarray]:
    """A TIFF of 4 to 6 bands, whose fourth is called alpha or not."""
    height, width = size(rng)
    count = int(rng.integers(4, 7))
    values = noise(rng, height, width, count)
    extra = int(rng.choice((0, 1, 2)))
    tiff(path, values, str(rng.choice(("<", ">"))), extra=extra, compress=bool(rng.random() < 0.5))
    return path, np.ascontiguousarray(values[..., :3])


def bilevel(rng: np.random.Generator, path: Path) -> tuple[Path, np.ndarray]:
    height, width = size(rng)
    pixels = rng.random((height, width)) < 0.5
    Image.fromarray(pixels).save(path, format=("PNG", "TIFF", "BMP", "GIF")[rng.integers(4)])
    return path, np.repeat(pixels[..., None] * np.uint8(255), 3, axis=2)


def lossy(rng: np.random.Generator, path: Path) -> tuple[Path, np.ndarray]:
    """A JPEG, WebP or JPEG 2000, also CMYK or progressive; Pillow's own decoding is the expectation."""
    height, width = size(rng)
    mode = str(rng.choice(("L", "RGB", "CMYK")))
    pixels = noise(rng, height, width, {"L": 1, "RGB": 3, "CMYK": 4}[mode])
    image = Image.frombytes(mode, (width, height), pixels.tobytes())
    form = "JPEG" if mode == "CMYK" else ("JPEG", "WEBP", "JPEG2000")[rng.integers(3)]
    more = {"progressive": True} if form == "JPEG" and rng.random() < 0.3 else {}
    image.save(path, format=form, **more)
    with Image.open(path) as written:
        return path, np.asarray(written.convert("RGB"))


def targa(rng: np.random.Generator, path: Path) -> tuple[Path, np.ndarray | None]:
    """A Targa file, which only its name tells."""
    pixels = noise(rng, *size(rng), 3)
    Image.fromarray(pixels).save(path, format="TGA")
    return path, pixels if path.suffix == ".tga" else None


def foreign(rng: np.random.Generator, path: Path) -> tuple[Path, None]:
    """What is no photograph, under the name of one: other formats, programs for Ghostscript, text, random bytes."""
    content: bytes
    choice = int(rng.integers(5))
    if choice == 0:
        content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    elif choice == 1:
        stream = io.BytesIO()
        form = ("ICO", "PCX", "SGI", "DDS", "ICNS", "EPS")[rng.integers(6)]
        Image.fromarray(noise(rng, 32, 32, 3)).save(stream, format=form)
        content = stream.getvalue()
    elif choice == 2:
        content = rng.choice((b"<svg xmlns='x'/>", b"%PDF-1.7\n", b"<!DOCTYPE html>", b"PK\3\4", b"8BPS\0\1"))
    elif choice == 3:
        content = rng.bytes(int(rng.integers(0, 2000)))
    else:
        Image.fromarray(rng.random((8, 8)).astype(np.float32)).save(path, format="TIFF")
        content = path.read_bytes()  # floating point without a range
    path.write_bytes(content)
    return path, None


def claim(rng: np.random.Generator, path: Path) -> tuple[Path, None]:
    """A header that promises a huge image, with hardly any data behind it."""
    height, width = (int(side) for side in rng.choice((5000, 13_000, 65_535, 2**31 - 1), 2))
    form = ("PNG", "BMP", "TIFF", "GIF", "PPM", "QOI")[rng.integers(6)]
    if form == "PPM":
        path.write_bytes(f"P6 {width} {height} 255\n".encode() + rng.bytes(100))
        return path, None
    stream = io.BytesIO()
    Image.fromarray(noise(rng, 7, 9, 3)).save(stream, format=form)
    content = bytearray(stream.getvalue())
    if form == "PNG":
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif form == "BMP":
        content[18:26] = struct.pack("<ii", width, height)
    elif form == "QOI":
        content[4:12] = struct.pack(">II", width, height)
    elif form == "GIF":
        content[6:10] = struct.pack("<HH", min(width, 65_535), min(height, 65_535))
        frame = content.index(b",", 13 + 3 * 2 ** ((content[10] & 7) + 1))
        content[frame + 5 : frame + 9] = struct.pack("<HH", min(width, 65_535), min(height, 65_535))
    else:
        for tag, value in ((256, width), (257, height)):
            entry = content.index(struct.pack("<H", tag), struct.unpack("<I", content[4:8])[0])
            content[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, value)
    path.write_bytes(content)
    return path, None


KINDS = (plain, plain, with_alpha, palette, deep, bands, bilevel, lossy, targa, foreign, foreign, claim)


def damage(rng: np.random.Generator, content: bytes) -> bytes:
    """Return a file's content cut, flipped, overwritten, doubled or shuffled, mostly near its head."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if not changed:
            break
        head = min(len(changed), 200 if rng.random() < 0.7 else len(changed))
        place = int(rng.integers(head))
        choice = int(rng.integers(6))
        if choice == 0:
            del changed[int(rng.integers(len(changed))) :]
        elif choice == 1:
            changed[place] ^= 1 << int(rng.integers(8))
        elif choice == 2:
            changed[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
        elif choice == 3:
            changed[place:place] = rng.bytes(int(rng.integers(1, 30)))
        elif choice == 4:
            del changed[place : place + int(rng.integers(1, 30))]
        else:
            changed[place : place + 2] = rng.bytes(2)
    return bytes(changed)
