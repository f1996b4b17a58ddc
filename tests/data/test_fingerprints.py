"""Copies of an image are found in whatever form they are; other images are not, and few are compared."""

import numpy as np
import pytest
from PIL import Image

from segnext.data.fingerprints import MOST_BITS, MOST_LEVELS, Fingerprint, fingerprint_of, near_pairs
from segnext.data.headers import read_header


def landscape(seed: int, width: int = 400, height: int = 300) -> Image.Image:
    """Return a smooth picture with some noise, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8))


def apart(one: Fingerprint, other: Fingerprint) -> tuple[int, float]:
    """Return how many bits differ, and by how many levels the grids do."""
    grids = np.frombuffer(one.grid, np.uint8).astype(int) - np.frombuffer(other.grid, np.uint8)
    return (one.bits ^ other.bits).bit_count(), float(np.abs(grids).mean())


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("a.jpg", (400, 300), {"quality": 40}),
        ("half.png", (200, 150), {}),
        ("double.jpg", (800, 600), {"quality": 90}),
        ("a.bmp", (400, 300), {}),
        ("odd.png", (333, 251), {"interlace": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_copy_is_found(tmp_path, name, size, options):
    picture = landscape(1)
    picture.save(tmp_path / "original.png")
    picture.resize(size, Image.Resampling.LANCZOS).save(tmp_path / name, **options)
    own, copy = (
        read_header(tmp_path / file, with_fingerprint=True).fingerprint for file in ("original.png", name)
    )
    bits, levels = apart(own, copy)
    assert bits <= MOST_BITS and levels <= 1
    others = [fingerprint_of(landscape(seed)) for seed in range(10, 30)]
    assert list(near_pairs([copy], [*others, own, *others])) == [(0, 20)]
    assert list(near_pairs([copy], others)) == []


def test_equal_bits_are_not_enough():
    """A darker picture has the same cells that are darker than their neighbours."""
    bright = landscape(4)
    one, dark = fingerprint_of(bright), fingerprint_of(bright.point(lambda value: value // 2))
    assert apart(one, dark)[0] <= MOST_BITS and list(near_pairs([dark], [one])) == []


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_every_mode(mode):
    whole, own = fingerprint_of(landscape(2).convert("L")), fingerprint_of(landscape(2).convert(mode))
    assert apart(whole, own)[1] < 12


def test_plain_images_have_none(tmp_path):
    assert fingerprint_of(Image.new("RGB", (40, 30), "red")) is None
    fog = Image.fromarray(np.random.default_rng(0).integers(200, 208, (60, 80, 3), np.uint8))
    assert fingerprint_of(fog) is None
    fog.save(tmp_path / "fog.png")
    assert read_header(tmp_path / "fog.png", with_fingerprint=True).fingerprint is None
    landscape(0).save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png").fingerprint is None  # not asked for


def test_the_lookup_finds_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(3)
    others = [
        Fingerprint(int(bits), rng.integers(0, 256, 288, np.uint8).tobytes())
        for bits in rng.integers(0, 2**63, 300)
    ]
    ours = []
    for index, (bits, grid) in enumerate(others):
        flips = rng.choice(64, index % 8, replace=False)
        levels = np.frombuffer(grid, np.uint8) // 2 + rng.integers(0, 2 + index % 5)
        ours.append(
            Fingerprint(bits ^ sum(1 << int(flip) for flip in flips), levels.astype(np.uint8).tobytes())
        )
    others = [Fingerprint(bits, (np.frombuffer(grid, np.uint8) // 2).tobytes()) for bits, grid in others]
    expected = []
    for index, own in enumerate(ours):
        distances = [apart(own, other) for other in others]
        near = [
            (levels, place)
            for place, (bits, levels) in enumerate(distances)
            if bits <= MOST_BITS and levels <= MOST_LEVELS
        ]
        expected += [(index, min(near)[1])] if near else []
    assert list(near_pairs(ours, others)) == expected and 100 < len(expected) < 250


def test_nothing_to_compare():
    one = fingerprint_of(landscape(0))
    assert list(near_pairs([], [one])) == list(near_pairs([one], [])) == []
