"""Tests `Predictor.predict_batch`: each image of a batch has the mask that it has alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from segnext import Inference, Predictor, segnext_t
from segnext.data.preprocessing import normalise


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (3, 5, 7, 3), np.uint8)
    return [np.array(Image.fromarray(one).resize((90, 70), Image.Resampling.BICUBIC)) for one in coarse]


@pytest.fixture(scope="module")
def model(images):
    torch.manual_seed(0)
    network = segnext_t(num_classes=4)
    with torch.no_grad():  # BN statistics of the data, so that several classes appear
        for _ in range(3):
            network.train()(torch.cat([normalise(image) for image in images]))
        network.decoder.classifier.weight.mul_(30)
    return network.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "slide", "crop": 48},
        {"scales": (0.5, 1), "flip": True},
        {"short_side": 48, "protocol": "official"},
    ],
    ids=["whole", "slide", "scales", "official"],
)
def test_each_mask_is_that_of_the_image_alone(model, images, options):
    predictor = Predictor(model, inference=Inference(**options))
    together = predictor.predict_batch(images)
    assert len(together) == len(images)
    assert len({prediction.mask.tobytes() for prediction in together}) == len(images)
    for image, prediction in zip(images, together, strict=True):
        np.testing.assert_array_equal(prediction.mask, predictor(image).mask)
        np.testing.assert_array_equal(prediction.image, image)


def test_files_and_pillow_images_too(model, images, tmp_path):
    predictor = Predictor(model)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    first, second = predictor.predict_batch([tmp_path / "a.png", Image.fromarray(images[0])])
    np.testing.assert_array_equal(first.mask, second.mask)


def test_images_of_several_sizes_or_none_are_refused(model, images):
    predictor = Predictor(model)
    with pytest.raises(ValueError, match="must have one size, got 80x70, 90x70; call it for each"):
        predictor.predict_batch([images[0], images[1][:, :80]])
    with pytest.raises(ValueError, match="must have one size, got no images"):
        predictor.predict_batch([])
