"""Tests the picture of two masks: what stands where, in which colours, at which size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from segnext.drawing.overlay import draw_overlay
from segnext.drawing.pair import LARGEST_PANEL, SURER, draw_pair

PALETTE = np.array([[128, 64, 128], [70, 130, 180], [0, 128, 0]], np.uint8)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts that are drawn."""
    drawn: list[str] = []
    text = ImageDraw.ImageDraw.text

    def draw(self, at, words, **how):
        drawn.append(words)
        return text(self, at, words, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", draw)
    return drawn


def drawn(
    height: int, width: int, tells_surer: bool = True
) -> tuple[Image.Image, np.ndarray, np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    one = np.zeros((height, width), np.uint8)
    one[height // 2 :] = 1
    other = one.copy()
    other[:, : width // 2] = 2
    differences = (one != other).astype(np.uint8)
    if tells_surer:
        differences[one == 1] *= 2
    picture = draw_pair(
        image,
        (one, other),
        differences,
        ("road", "sky", "tree"),
        PALETTE,
        ("first", "second.onnx"),
        tells_surer,
    )
    return picture, image, one, other


def test_the_panels(words):
    picture, image, one, other = drawn(240, 320)
    pixels = np.array(picture)
    lefts, tops = (8, 8 + 320 + 8), (32, 32 + 240 + 8 + 32)
    panels = [[pixels[top : top + 240, left : left + 320] for left in lefts] for top in tops]
    np.testing.assert_array_equal(panels[0][0], image)
    np.testing.assert_array_equal(panels[1][0], np.array(draw_overlay(image, one, PALETTE)))
    np.testing.assert_array_equal(panels[1][1], np.array(draw_overlay(image, other, PALETTE)))
    differences = panels[0][1]
    assert (differences[:120, :160] == SURER[0]).all() and (differences[120:, :160] == SURER[1]).all()
    same = differences[:, 160:].astype(int)
    assert (same.max(-1) == same.min(-1)).all() and same.min() > 160  # a pale gray
    assert words == [
        *("photograph", "differences", "a: first", "b: second.onnx"),
        *(
            "same class",
            "50.00 %",
            "another class, a is surer",
            "25.00 %",
            "another class, b is surer",
            "25.00 %",
        ),
        *("road", "50.0 | 25.0 %", "sky", "50.0 | 25.0 %", "tree", "0.0 | 50.0 %"),
    ]


def test_without_confidences_there_is_one_kind_of_difference(words):
    drawn(240, 320, tells_surer=False)
    assert words[4:8] == ["same class", "50.00 %", "another class", "50.00 %"]


def test_a_large_photograph_gets_smaller():
    picture, *_ = drawn(500, 4000)
    assert 2 * LARGEST_PANEL < picture.width < 2 * LARGEST_PANEL + 50


def test_a_tiny_photograph_has_room_for_its_titles():
    picture, image, *_ = drawn(3, 2)
    assert picture.width > 600
    left = 8 + (300 - 2) // 2
    np.testing.assert_array_equal(np.array(picture)[32:35, left : left + 2], image)


def test_few_pixels_are_not_none(words):
    image = np.zeros((200, 200, 3), np.uint8)
    one = np.zeros((200, 200), np.uint8)
    other = one.copy()
    other[0, 0] = 1
    draw_pair(image, (one, other), other, ("road", "sky"), PALETTE[:2], ("a", "b"), True)
    assert words[4:10:2] == ["same class", "another class, a is surer", "another class, b is surer"]
    assert words[5:10:2] == ["> 99.99 %", "< 0.01 %", "0.00 %"]
