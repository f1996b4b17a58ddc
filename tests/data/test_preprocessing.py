"""Images are normalised by the numbers of docs/model.md, section 5.1, or by the weights' own."""

import json
import warnings

import numpy as np
import pytest
import torch

from segnext.data.preprocessing import MEAN, STD, Preprocessing, as_batch, normalise, short_side_scale


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_the_published_statistics():
    assert MEAN == (123.675, 116.28, 103.53)
    assert STD == (58.395, 57.12, 57.375)


def test_array(image):
    tensor = normalise(image)
    expected = (image.astype(np.float64) - MEAN) / STD
    assert tensor.shape == (1, 3, 5, 7) and tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(tensor[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_equals_array_and_is_left_alone(image, dtype, layout):
    batch = torch.from_numpy(np.stack([image, image[::-1]])).permute(0, 3, 1, 2).to(dtype)
    batch = batch.contiguous(memory_format=layout)
    before = batch.clone()
    tensor = normalise(batch)
    assert tensor.shape == (2, 3, 5, 7) and tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(tensor[:1], normalise(image))
    assert torch.equal(batch, before)


def test_other_statistics(image):
    tensor = normalise(image, mean=(0, 0, 0), std=(255, 255, 255))
    np.testing.assert_allclose(tensor[0, 0].numpy(), image[..., 0] / 255, atol=1e-6)


def test_read_only_arrays_do_not_warn(image):
    image.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_batch(image)


def test_negative_strides(image):
    torch.testing.assert_close(normalise(image[::-1, :, ::-1]), normalise(image[::-1, :, ::-1].copy()))


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (np.zeros((5, 7, 3), np.float32), TypeError, "uint8"),
        (np.zeros((5, 7), np.uint8), ValueError, r"\(H, W, 3\), got \(5, 7\)"),
        (torch.zeros(3, 5, 7), ValueError, r"\(N, 3, H, W\), got \(3, 5, 7\)"),
        (torch.zeros(1, 4, 5, 7), ValueError, r"got \(1, 4, 5, 7\)"),
        ([[0]], TypeError, "list"),
    ],
    ids=["float", "gray", "no-batch", "channels", "list"],
)
def test_refused(bad, error, words):
    with pytest.raises(error, match=words):
        normalise(bad)


class TestPreprocessing:
    def test_defaults_are_imagenets_at_any_size(self, image):
        assert Preprocessing.of({}) == Preprocessing() == Preprocessing(MEAN, STD, None)
        torch.testing.assert_close(Preprocessing()(image), normalise(image), rtol=0, atol=0)

    def test_it_survives_json(self):
        for one in (
            Preprocessing(),
            Preprocessing((0.0, 1.0, 2.0), (255.0, 1.0, 0.5), 48),
            Preprocessing(value_range=(0.0, 4095.0)),
        ):
            stored = json.loads(json.dumps(one.as_json()))
            assert Preprocessing.of({"preprocessing": stored}) == one and stored == one.as_json()

    def test_numbers_of_its_own(self, image):
        own = Preprocessing((0, 0, 0), (255, 255, 255))
        np.testing.assert_allclose(own(image)[0, 0].numpy(), image[..., 0] / 255, atol=1e-6)

    @pytest.mark.parametrize(
        ("height", "width", "scale"), [(40, 80, 0.5), (80, 40, 0.5), (10, 10, 2), (10, 100, 0.8)]
    )
    def test_the_short_side_is_resized_and_the_long_one_bounded(self, height, width, scale):
        assert short_side_scale(height, width, 20) == scale

    @pytest.mark.parametrize(
        ("stored", "words"),
        [
            (
                {"mean": [1, 2, float("nan")]},
                r"mean must be finite numbers, one per channel, got \(1\.0, 2\.0, nan",
            ),
            ({"std": [1, 2]}, r"std must be 3 numbers above 0"),
            ({"std": [1, 2, 0]}, r"std must be 3 numbers above 0"),
            ({"short_side": 0}, "short_side must be from 1 to 8192 pixels, got 0"),
            ({"mean": "imagenet"}, "mean must be a list of numbers, got imagenet"),
            ({"mean": None}, "mean must be a list of numbers, got None"),
            ({"mean": [True, 2, 3]}, "mean must be a list of numbers"),
            ({"mean": [10**400, 2, 3]}, "mean must be a list of numbers"),
            ({"short_side": "512"}, "short_side must be a whole number, got 512"),
            ({"short_side": 2.7}, "short_side must be a whole number, got 2.7"),
            ({"short_side": True}, "short_side must be a whole number, got True"),
            ({"short_side": 10**6}, "short_side must be from 1 to 8192 pixels, got 1000000"),
            ({"value_range": [1, 0]}, "value_range must be two finite numbers, the first below the second"),
            ({"value_range": 4095}, "value_range must be a list of numbers, got 4095"),
            ({"crop": 224}, "must hold mean, std, short_side, value_range, bands, got crop$"),
            (["imagenet"], "must hold mean, std, short_side, value_range"),
        ],
        ids=str,
    )
    def test_metadata_that_is_no_preprocessing(self, stored, words):
        with pytest.raises(ValueError, match=words):
            Preprocessing.of({"preprocessing": stored})
