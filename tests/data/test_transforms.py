"""Augmentation moves image and label alike, pads, varies crops, and distorts colours as published."""

import colorsys

import numpy as np
import pytest
import torch

from segnext.data.photometric import Distortion
from segnext.data.preprocessing import Preprocessing
from segnext.data.resizing import resize
from segnext.data.transforms import Augmentation


def ramp(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image whose red is the column and green the row, and a label that is the column."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack((columns, rows, np.full_like(rows, 7)), axis=2).astype(np.uint8)
    return image, columns.astype(np.uint8)


def draws(augmentation: Augmentation, image: np.ndarray, label: np.ndarray, count: int):
    return [augmentation(image, label, np.random.default_rng(seed))[:2] for seed in range(count)]


def plain(crop: int, scale: tuple[float, float] = (1.0, 1.0), **options) -> Augmentation:
    return Augmentation(crop, scale, **{"flip": False, "distort": False, **options})


@pytest.mark.parametrize("size", [(64, 64), (20, 90), (90, 20), (33, 47), (1, 1)], ids=str)
def test_every_view_is_square_bytes(size):
    image, label = ramp(*size)
    for view, ids in draws(Augmentation(32, (0.5, 2.0)), image, label, 10):
        assert view.shape == (32, 32, 3) and ids.shape == (32, 32)
        assert view.dtype == ids.dtype == np.uint8


def test_nothing_asked_for_changes_nothing():
    image, label = ramp(40, 40)
    view, ids, size = plain(40)(image, label, np.random.default_rng(0))
    assert size == (40, 40)
    np.testing.assert_array_equal(view, image)
    np.testing.assert_array_equal(ids, label)


def test_equal_generators_give_equal_views():
    image, label = ramp(50, 60)
    for first, second in zip(*(draws(Augmentation(32), image, label, 5) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    different = draws(Augmentation(32), image, label, 2)
    assert not np.array_equal(different[0][0], different[1][0])


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 0.5), (1.7, 1.7), (0.5, 2.0)], ids=str)
@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
def test_image_and_label_show_the_same_place(scale, flip):
    image, label = ramp(120, 200)
    seen = set()
    for view, ids in draws(plain(48, scale, flip=flip, ignore_index=254), image, label, 20):
        # Red is the column as bilinear interpolation sees it, the label as nearest neighbour does.
        assert np.abs(view[..., 0].astype(int) - ids).max() <= 1
        seen.add(bool(ids[0, 0] > ids[0, -1]))
    assert seen == ({False, True} if flip else {False})


def test_a_flip_mirrors_half_of_the_views():
    image, label = ramp(30, 30)
    mirrored = 0
    for view, ids in draws(plain(30, flip=True), image, label, 60):
        if ids[0, 0]:
            np.testing.assert_array_equal(view, image[:, ::-1])
            np.testing.assert_array_equal(ids, label[:, ::-1])
            mirrored += 1
        else:
            np.testing.assert_array_equal(view, image)
    assert 20 <= mirrored <= 40


def test_resize_range_and_aspect():
    image, label = ramp(20, 30)
    widths = []
    for _, ids in draws(plain(64, (0.5, 2.0)), image, label, 200):
        seen = ids != 255
        height, width = seen.any(1).sum(), seen.any(0).sum()
        assert 10 <= height <= 40 and 15 <= width <= 60 and abs(height * 1.5 - width) <= 1.5
        widths.append(width)
    assert min(widths) <= 17 and max(widths) >= 58 and 35 <= np.mean(widths) <= 40


def test_crops_reach_every_corner():
    image, label = ramp(50, 60)
    views = [view for view, _ in draws(plain(40), image, label, 400)]
    assert {view[0, 0, 0] for view in views} == set(range(21))
    assert {view[0, 0, 1] for view in views} == set(range(11))


@pytest.mark.parametrize("ignore_index", [255, 9])
def test_padding_is_ignored_and_0(ignore_index):
    image, label = np.full((10, 12, 3), 7, np.uint8), np.zeros((10, 12), np.uint8)
    view, ids, size = plain(16, ignore_index=ignore_index)(image, label, np.random.default_rng(0))
    inside = np.zeros((16, 16), bool)
    inside[:10, :12] = True
    assert size == (10, 12)
    np.testing.assert_array_equal(ids, np.where(inside, 0, ignore_index))
    np.testing.assert_array_equal(view[..., 0], np.where(inside, 7, 0))


def test_ratios_are_relative_to_the_size_that_the_weights_expect():
    image, label = ramp(50, 60)
    half = resize(torch.from_numpy(image).permute(2, 0, 1)[None], (25, 30))[0].permute(1, 2, 0)
    own = plain(40, preprocessing=Preprocessing(short_side=25))
    view, ids, _ = own(image, label, np.random.default_rng(0))
    assert (ids != 255).sum() == 25 * 30
    np.testing.assert_array_equal(view[:25, :30], half.numpy())


@pytest.mark.parametrize("size", [(50, 60), (60, 50)], ids=str)
def test_a_short_side_that_the_images_have_changes_nothing(size):
    image, label = ramp(*size)
    expected = draws(Augmentation(32), image, label, 3)
    found = draws(Augmentation(32, preprocessing=Preprocessing(short_side=50)), image, label, 3)
    for first, second in zip(expected, found, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])


def largest_share(ids: np.ndarray) -> float:
    counts = np.bincount(ids[ids != 255], minlength=2)
    return counts.max() / counts.sum()


def test_crops_of_one_class_are_drawn_again():
    image, label = ramp(60, 200)
    label = (label >= 100).astype(np.uint8)
    free = [largest_share(ids) for _, ids in draws(plain(40, max_class_share=2), image, label, 100)]
    varied = [largest_share(ids) for _, ids in draws(plain(40), image, label, 100)]
    assert np.mean(np.array(free) >= 0.75) > 0.7  # most places show hardly more than one class
    assert np.mean(np.array(varied) >= 0.75) < 0.5  # 0.87 ** 10 = 0.25 find none in ten attempts
    one_class = draws(plain(40), image, np.zeros_like(label), 3)  # it gives up instead of looking for ever
    assert all(not ids.any() for _, ids in one_class)


def test_ignored_pixels_are_no_class_in_the_share():
    image, _ = ramp(60, 60)
    label = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (60, 60), p=[0.1, 0.1, 0.8])
    first_try = draws(plain(20, max_class_share=2), image, label, 10)
    for (_, expected), (_, ids) in zip(first_try, draws(plain(20), image, label, 10), strict=True):
        np.testing.assert_array_equal(ids, expected)


def distorted_by_definition(image: np.ndarray, drawn: Distortion) -> np.ndarray:
    """Compute mmsegmentation's PhotoMetricDistortion in floats, pixel by pixel."""
    values = np.clip(image + (drawn.brightness or 0.0), 0, 255)
    contrast = drawn.contrast or 1.0
    if drawn.contrast_first:
        values = np.clip(values * contrast, 0, 255)
    for index in np.ndindex(image.shape[:2]):
        hue, colour, value = colorsys.rgb_to_hsv(*values[index] / 255)
        hue, colour = hue + (drawn.hue or 0) / 180, min(colour * (drawn.saturation or 1.0), 1)
        values[index] = colorsys.hsv_to_rgb(hue % 1, colour, value)
        values[index] *= 255
    return values if drawn.contrast_first else np.clip(values * contrast, 0, 255)


def test_colours_are_those_of_the_definition():
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    errors, changes = [], []
    for seed in range(60):
        drawn = Distortion.draw(np.random.default_rng(seed))
        view = drawn(image).astype(float)
        errors.append(np.abs(view - distorted_by_definition(image, drawn)))
        changes.append(np.abs(view - image).mean())
    # A hue of 180 steps moves a colour by up to 8 per step; it is rounded twice, and contrast makes 1.5 times as much.
    assert np.max(errors) < 14 and np.mean(errors) < 2
    assert np.mean(np.array(changes) > 5) > 0.7 and min(changes) == 0


def test_all_four_changes_are_drawn_half_the_time_and_within_their_ranges():
    drawn = [Distortion.draw(np.random.default_rng(seed)) for seed in range(2000)]
    for name, low, high in (
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -18, 17),
    ):
        values = [getattr(one, name) for one in drawn if getattr(one, name) is not None]
        assert 900 < len(values) < 1100 and low <= min(values) < max(values) <= high
        assert max(values) - min(values) > 0.98 * (high - low)
    assert 900 < sum(one.contrast_first for one in drawn) < 1100


def test_distortion_leaves_the_input_and_the_label_alone():
    image, label = ramp(32, 32)
    before = image.copy()
    views = draws(plain(32, distort=True), image, label, 10)
    np.testing.assert_array_equal(image, before)
    assert all(np.array_equal(ids, label) for _, ids in views)
    assert any(not np.array_equal(view, image) for view, _ in views)


@pytest.mark.parametrize(
    ("crop", "scale", "message"),
    [
        (0, (1, 1), "crop must be at least 1 pixel, got 0"),
        (8, (0, 1), "scale must be 0 < LOW <= HIGH, got 0 1"),
        (8, (2, 1), "scale must be 0 < LOW <= HIGH, got 2 1"),
        (8, (1, float("inf")), "scale must be 0 < LOW <= HIGH, got 1 inf"),
        (8, (float("nan"), 1), "scale must be"),
    ],
)
def test_settings_out_of_range(crop, scale, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(crop, scale)
