"""Tests `Prediction`: statistics, the mask's file, the overlay."""

import numpy as np
import pytest
from PIL import Image

from segnext.predict.prediction import Prediction
from tests.full_disk import MESSAGE, full_disk

CLASSES = ("road", "sky", "tree", "car")
COLOURS = np.array([[128, 64, 128], [128, 128, 128], [128, 128, 0], [64, 0, 128]], np.uint8)


def prediction_of(mask: np.ndarray, classes: tuple[str, ...] = CLASSES) -> Prediction:
    coarse = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    image = np.array(Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC))
    return Prediction(mask, image, classes, COLOURS, 0.1)


@pytest.fixture
def prediction() -> Prediction:
    """Make a prediction of classes 0, 1 and 3 in blocks of 10x10 pixels."""
    coarse = np.random.default_rng(4).choice(np.array([0, 1, 3], np.uint8), (7, 9))
    return prediction_of(coarse.repeat(10, 0).repeat(10, 1))


def test_statistics(prediction):
    shares = prediction.statistics()
    assert tuple(shares) == CLASSES
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["tree"] == 0
    assert shares["car"] == pytest.approx((prediction.mask == 3).mean())


def test_repeated_class_names_are_added(prediction):
    shares = prediction_of(prediction.mask, ("a", "b", "a", "b")).statistics()
    assert list(shares) == ["a", "b"] and sum(shares.values()) == pytest.approx(1)
    assert shares["b"] == pytest.approx((prediction.mask % 2 == 1).mean())


def test_mask_file_holds_ids_and_colours(prediction, tmp_path):
    prediction.save_mask(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as saved:
        assert saved.mode == "P"
        np.testing.assert_array_equal(np.array(saved), prediction.mask)
        np.testing.assert_array_equal(np.array(saved.convert("RGB")), COLOURS[prediction.mask])


def test_overlay(prediction):
    assert prediction.overlay(legend=False).size == (90, 70)
    panel = np.array(prediction.overlay())[70:]
    for index, share in enumerate(prediction.statistics().values()):
        assert (panel == COLOURS[index]).all(-1).any() == (share > 0)


def test_the_legend_lists_only_what_is_there():
    mask = np.zeros((70, 90), np.uint8)
    mask[0, 0] = 3
    panel = np.array(prediction_of(mask).overlay())[70:]
    assert [bool((panel == colour).all(-1).any()) for colour in COLOURS] == [True, False, False, True]


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_bad_alpha(prediction, alpha):
    with pytest.raises(ValueError, match="alpha must be within 0..1"):
        prediction.overlay(alpha)


@pytest.mark.parametrize(("width", "ending"), [(65_000, ".jpg"), (65_501, ".png"), (66_000, ".png")])
def test_an_overlay_is_a_jpeg_while_it_can_be(tmp_path, width, ending):
    mask, image = np.zeros((2, width), np.uint8), np.zeros((2, width, 3), np.uint8)
    file = Prediction(mask, image, CLASSES, COLOURS, 0.1).save_overlay(tmp_path / "overlay.jpg")
    assert file == tmp_path / f"overlay{ending}"
    with Image.open(file) as picture:
        assert picture.width == width and picture.format == {".jpg": "JPEG", ".png": "PNG"}[ending]


def test_a_full_disk_leaves_no_half_picture(prediction, tmp_path):
    """Pillow itself leaves half a JPEG here and says nothing."""
    for write in (prediction.save_mask, prediction.save_overlay):
        with full_disk(64), pytest.raises(OSError) as error:
            write(tmp_path / "picture.jpg")
        assert (error.value.filename, error.value.strerror) == (str(tmp_path / "picture.jpg"), MESSAGE)
        assert not list(tmp_path.iterdir())
