"""Tests overlay and legend, pixel by pixel where they are defined."""

import numpy as np
import pytest
from PIL import Image

from segnext.drawing import overlay
from segnext.drawing.fonts import font_for
from segnext.drawing.overlay import PAPER, add_legend, class_borders, draw_legend, draw_overlay

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_tint_inside_and_light_borders():
    image, mask = picture(20, 30), np.zeros((20, 30), np.uint8)
    mask[:, 15:] = 2
    result = np.array(draw_overlay(image, mask, PALETTE, alpha=0.25)).astype(float)
    expected = 0.75 * image + 0.25 * PALETTE[mask]
    border = class_borders(mask)
    assert border.sum() == 20 and border[:, 14].all()
    assert np.abs(result - expected)[~border].max() <= 1
    assert (result[border] >= 170).all()


@pytest.mark.parametrize("pixels", [1, 70, 1 << 20])
def test_strips_do_not_show(monkeypatch, pixels):
    """Borders reach into the next strip, and the legend stands below all of them."""
    image = picture(23, 30)
    mask = np.random.default_rng(1).integers(0, 3, (23, 30), np.uint8)
    whole = np.array(Image.blend(Image.fromarray(image), Image.fromarray(PALETTE[mask]), 0.5))
    border = class_borders(mask)
    whole[border] = whole[border] // 3 + 170
    monkeypatch.setattr(overlay, "_STRIP", pixels)
    np.testing.assert_array_equal(np.array(draw_overlay(image, mask, PALETTE)), whole)
    with_legend = draw_overlay(image, mask, PALETTE, legend=draw_legend((30, 23), ENTRIES))
    assert with_legend.tobytes() == add_legend(Image.fromarray(whole), ENTRIES).tobytes()


@pytest.mark.parametrize(("alpha", "expected"), [(0, "image"), (1, "colours")])
def test_extremes(alpha, expected):
    image, mask = picture(4, 5), np.ones((4, 5), np.uint8)
    result = np.array(draw_overlay(image, mask, PALETTE, alpha))
    np.testing.assert_array_equal(result, image if expected == "image" else PALETTE[mask])


def test_borders_of_a_single_pixel():
    mask = np.zeros((3, 3), np.int32)
    mask[1, 1] = 300
    assert class_borders(mask).tolist() == [[False, True, False], [True, True, False], [False] * 3]


ENTRIES = [
    (0, "road", (200, 10, 20), 0.75),
    (1, "sky", (10, 200, 20), 0.2496),
    (2, "a pole", (10, 20, 200), 0.0004),
]


@pytest.mark.parametrize("size", [(1, 1), (20, 300), (480, 360), (1500, 40), (1000, 900)])
def test_legend_keeps_the_picture_and_shows_every_colour(size):
    width, height = size
    original = Image.fromarray(picture(height, width))
    result = add_legend(original, ENTRIES)
    left = (result.width - width) // 2
    assert result.width >= width and result.height > height
    np.testing.assert_array_equal(np.array(result)[:height, left : left + width], np.array(original))
    panel = np.array(result)[height:]
    for _, _, colour, _ in ENTRIES:
        assert (panel == colour).all(-1).sum() > 50
    assert tuple(panel[0, 0]) == PAPER and tuple(panel[-1, -1]) == PAPER


def test_legend_fits_many_classes():
    entries = [(index, f"class number {index}", (index, 100, 100), 1 / 150) for index in range(150)]
    result = add_legend(Image.fromarray(picture(300, 800)), entries)
    panel = np.array(result)[300:]
    colours = np.unique(panel.reshape(-1, 3), axis=0).tolist()
    assert all(list(colour) in colours for _, _, colour, _ in entries)
    ink = (panel != PAPER).any(-1)
    assert not ink[:, 0].any() and not ink[:, -1].any() and not ink[-1].any()  # nothing is cut off


def test_shares_change_the_legend():
    base = Image.fromarray(picture(100, 300))
    one = np.array(add_legend(base, [(0, "road", (9, 9, 9), 0.5)]))
    other = np.array(add_legend(base, [(0, "road", (9, 9, 9), 0.6)]))
    assert one.shape == other.shape and (one != other).any()


def test_a_name_without_letters_to_draw_it_is_its_id():
    """No font has a letter of Unicode's private use; the legend is the one of the id's own name."""
    base, colour = Image.fromarray(picture(100, 300)), (9, 9, 9)
    for name in ("\U000f1234 and \U000f1235", "", "\n\t"):
        shown = add_legend(base, [(7, name, colour, 0.5)])
        expected = add_legend(base, [(7, "class 7", colour, 0.5)])
        np.testing.assert_array_equal(np.array(shown), np.array(expected))


def test_accents_are_drawn_where_a_font_has_them():
    if font_for("Straße", 13) is None:
        pytest.skip("no font of this machine has the letter")
    base, colour = Image.fromarray(picture(100, 300)), (9, 9, 9)
    strasse, street, id_ = (
        np.array(add_legend(base, [(7, name, colour, 0.5)])) for name in ("Straße", "Strase", "class 7")
    )
    assert strasse.shape != id_.shape or (strasse != id_).any()
    assert strasse.shape != street.shape or (strasse != street).any()


@pytest.mark.parametrize("name", ["road\nand\r\nrails", "x" * 100_000, "\0road", "bar\u202eoad"])
def test_names_that_are_no_line(name):
    result = add_legend(Image.fromarray(picture(100, 300)), [(0, name, (9, 9, 9), 1.0)])
    assert result.height < 200 and result.width < 2000


def test_empty_legend():
    assert add_legend(Image.fromarray(picture(10, 300)), []).size == (300, 10)
