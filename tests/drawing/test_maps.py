"""Tests the colours of numbers, and the pictures that are made of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segnext.drawing.maps import TICKS, coloured, draw_caption, draw_map
from segnext.drawing.overlay import PAPER
from segnext.drawing.palette import lab_of
from segnext.drawing.ramp import ramp


def test_equal_steps_are_equal_to_the_eye():
    lab = lab_of(ramp().astype(float))
    assert lab.shape == (256, 3)
    steps = np.linalg.norm(lab[8:] - lab[:-8], axis=1)
    assert steps.max() / steps.mean() < 1.25 and steps.min() / steps.mean() > 0.75
    assert (lab[8:, 0] > lab[:-8, 0]).all()  # it rises in gray, too
    assert lab[0, 0] < 10 and lab[-1, 0] > 93


def test_values_are_rounded_to_the_nearest_colour():
    values = np.array([0, 0.49 / 255, 0.51 / 255, 0.5, 1], np.float32)
    np.testing.assert_array_equal(coloured(values), ramp()[[0, 0, 1, 128, 255]])


def test_a_map_has_a_pixel_per_value_above_its_bar(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).random((300, 420), np.float32)
    picture = draw_map(values, "confidence (long words)")
    assert picture.width == 420 and picture.height > 300
    np.testing.assert_array_equal(np.array(picture)[:300], coloured(values))
    bar = np.array(picture)[300:]
    found = {tuple(colour) for colour in bar.reshape(-1, 3)}
    assert found >= {tuple(colour) for colour in ramp()[[1, 64, 128, 254]]}  # ends lie under the frame
    monkeypatch.setattr("segnext.drawing.maps._STRIP", 1)  # a row at a time
    assert draw_map(values, "confidence (long words)").tobytes() == picture.tobytes()


def test_a_narrow_map_stands_in_the_middle():
    values = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(40, 30)
    picture = np.array(draw_map(values, "margin (words)"))
    left = (picture.shape[1] - 30) // 2
    np.testing.assert_array_equal(picture[:40, left : left + 30], coloured(values))
    assert (picture[:40, : left - 1] == PAPER).all() and picture.shape[1] > 200


@pytest.mark.parametrize("width", [260, 900])
def test_the_bar_says_its_numbers(width: int, monkeypatch: pytest.MonkeyPatch):
    """What is drawn as text is the title, as long as there is room, the mean, and the ticks."""
    from PIL import ImageDraw

    drawn = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, at, words, **how: drawn.append(words) or text(self, at, words, **how),
    )
    draw_map(np.full((100, width), 0.25, np.float32), "entropy (of the probabilities of all classes)")
    title = "entropy" if width == 260 else "entropy (of the probabilities of all classes)"
    assert drawn == [title, "mean 0.250", *(f"{tick:g}" for tick in TICKS)]


def test_a_caption_leaves_the_picture_as_it_is():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 500, 3), np.uint8))
    captioned = draw_caption(picture, "features")
    assert captioned.size[0] == 500 and captioned.size[1] > 60
    np.testing.assert_array_equal(np.array(captioned)[:60], np.array(picture))
    assert draw_caption(picture.crop((0, 0, 4, 4)), "features (longer)").width < 100
