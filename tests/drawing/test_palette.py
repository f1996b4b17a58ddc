"""Generated colours are distinct, stable and visible."""

import numpy as np
import pytest

from segnext.drawing.palette import distinct_palette, lab_of


def smallest_distance(palette: np.ndarray) -> float:
    lab = lab_of(palette.astype(float))
    distances = np.sqrt(((lab[:, None] - lab[None]) ** 2).sum(-1))
    return float(distances[~np.eye(len(lab), dtype=bool)].min())


# 2.3 is a just noticeable difference in CIELAB.
@pytest.mark.parametrize(("count", "distance"), [(2, 100), (11, 45), (19, 40), (150, 15), (256, 11)])
def test_colours_are_far_apart(count, distance):
    palette = distinct_palette(count)
    assert palette.shape == (count, 3) and palette.dtype == np.uint8
    assert smallest_distance(palette) >= distance


def test_more_classes_keep_the_first_colours():
    np.testing.assert_array_equal(distinct_palette(19), distinct_palette(150)[:19])


def test_more_classes_than_colours():
    assert distinct_palette(10_000).shape == (10_000, 3)


def test_nothing_near_black_or_white():
    lightness = lab_of(distinct_palette(256).astype(float))[:, 0]
    assert lightness.min() > 25 and lightness.max() < 92


def test_lab_of_known_colours():
    # sRGB red and white, from the CIE definitions (D65).
    np.testing.assert_allclose(lab_of(np.array([[255.0, 0, 0]]))[0], [53.24, 80.09, 67.20], atol=0.05)
    np.testing.assert_allclose(lab_of(np.array([[255.0, 255, 255]]))[0], [100, 0, 0], atol=0.05)
