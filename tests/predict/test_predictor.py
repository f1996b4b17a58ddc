"""Tests `Predictor`: from a file, an array or a Pillow image to a prediction."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnext import DeployedSegNeXt, Inference, Predictor, mscan_t, segnext_t
from segnext.data.images import ImageError
from segnext.data.preprocessing import Preprocessing, normalise
from segnext.predict.predictor import runs_deployed
from segnext.weights import save, shipped

CLASSES = ["road", "sky", "tree", "car"]
COLOURS = [[128, 64, 128], [128, 128, 128], [128, 128, 0], [64, 0, 128]]
CAMVID = Path(os.environ.get("SEGNEXT_CAMVID", Path(__file__).parents[3] / "shared" / "camvid"))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def model(image):
    torch.manual_seed(0)
    network = segnext_t(num_classes=len(CLASSES))
    with torch.no_grad():  # BN statistics of the data, so that several classes appear
        for _ in range(3):
            network.train()(normalise(image).repeat(2, 1, 1, 1))
        network.decoder.classifier.weight.mul_(30)
    network.metadata = {"classes": CLASSES, "palette": COLOURS}
    return network.eval()


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model)


class TestCalling:
    def test_file_array_and_pillow_image_agree(self, predictor, model, image, tmp_path):
        Image.fromarray(image).save(tmp_path / "a.png")
        expected = model.predict(normalise(image))[0].numpy()
        for source in (tmp_path / "a.png", str(tmp_path / "a.png"), image, Image.fromarray(image)):
            prediction = predictor(source)
            np.testing.assert_array_equal(prediction.mask, expected)
            np.testing.assert_array_equal(prediction.image, image)
        assert prediction.mask.dtype == np.uint8 and prediction.mask.shape == (70, 90)
        assert 0 < prediction.seconds < 60
        assert len(np.unique(prediction.mask)) > 1

    @pytest.mark.parametrize(
        ("device", "dtype", "random_bases", "is_deployed"),
        [
            ("cpu", torch.float32, False, True),
            ("cuda", torch.float32, False, True),
            ("cuda:1", torch.bfloat16, False, True),
            ("cpu", torch.float32, True, False),
            ("cuda", torch.float32, True, False),
            ("cuda", torch.float16, False, False),
            ("mps", torch.float32, False, False),
        ],
    )
    def test_where_the_deployed_model_runs(self, device, dtype, random_bases, is_deployed):
        network = segnext_t(num_classes=2, depths=(1, 1, 1, 1), random_eval_bases=random_bases)
        assert runs_deployed(torch.device(device), dtype, network) == is_deployed

    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_the_deployed_model_has_the_device_and_dtype_asked_for(self, model, device, dtype):
        predictor = Predictor(copy.deepcopy(model), device=device, dtype=dtype)
        network = predictor._network
        if dtype == torch.float16:
            assert network is predictor.model
        else:
            assert isinstance(network, DeployedSegNeXt)
            assert (network.device.type, network.dtype) == (device, dtype)
            assert (network._graphs is not None) == (device == "cuda")

    def test_a_decoder_that_cannot_be_folded_runs_itself(self, model):
        network = copy.deepcopy(model)
        network.decoder.__class__ = type("OtherHam", (type(network.decoder),), {})
        predictor = Predictor(network)
        assert predictor._network is predictor.model

    def test_a_model_of_random_bases_runs_itself(self, image):
        predictor = Predictor(segnext_t(num_classes=2, random_eval_bases=True))
        assert predictor._network is predictor.model
        assert predictor(image).mask.shape == (70, 90)

    def test_equal_images_give_equal_masks(self, predictor, image):
        np.testing.assert_array_equal(predictor(image).mask, predictor(image).mask)

    def test_options_reach_the_network(self, model, image):
        for options in (
            {"mode": "slide", "crop": 48},
            {"scales": (0.5, 1), "flip": True},
            {"short_side": 35},
        ):
            mask = Predictor(model, inference=Inference(**options))(image).mask
            assert mask.shape == (70, 90)
            assert (mask != Predictor(model)(image).mask).any()

    def test_bfloat16_agrees_almost_everywhere(self, model, predictor, image):
        low = Predictor(model, dtype=torch.bfloat16)(image).mask
        assert (low == predictor(image).mask).mean() > 0.95

    def test_many_classes(self, image, tmp_path):
        torch.manual_seed(1)
        prediction = Predictor(segnext_t(num_classes=400))(image)
        assert prediction.mask.dtype == np.int32
        prediction.mask[0, 0] = 399
        prediction.save_mask(tmp_path / "m.png")
        with Image.open(tmp_path / "m.png") as saved:
            np.testing.assert_array_equal(np.array(saved), prediction.mask)
        assert prediction.overlay().width >= 90

    def test_one_pixel(self, predictor):
        assert predictor(np.zeros((1, 1, 3), np.uint8)).mask.shape == (1, 1)


class TestWeights:
    def test_from_a_file_with_its_metadata(self, model, image, tmp_path):
        path = tmp_path / "w.safetensors"
        preprocessing = {"mean": [0.0, 0.0, 0.0], "std": [255.0] * 3, "short_side": 35}
        save(model, path, {"classes": CLASSES, "palette": COLOURS, "preprocessing": preprocessing})
        loaded = Predictor(path)
        assert loaded.classes == tuple(CLASSES) and loaded.palette.tolist() == COLOURS
        assert loaded.inference.short_side == 35
        native = Predictor(path, inference=Inference(short_side=0))
        assert native.inference.short_side == 0
        assert Predictor(path, inference=Inference(short_side=50)).inference.short_side == 50
        tensor = normalise(image, mean=[0, 0, 0], std=[255] * 3)
        np.testing.assert_array_equal(native(image).mask, model.predict(tensor)[0].numpy())

    def test_defaults_without_metadata(self, image):
        bare = Predictor(segnext_t(num_classes=3))
        assert bare.classes == ("class 0", "class 1", "class 2")
        assert bare.palette.shape == (3, 3) and len(np.unique(bare.palette, axis=0)) == 3
        assert bare.preprocessing == Preprocessing()
        assert not bare.model.training

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Predictor(tmp_path / "none.safetensors")


class TestRefused:
    @pytest.mark.parametrize(
        ("bad", "error", "words"),
        [
            (np.zeros((4, 4), np.uint8), ValueError, r"\(H, W, 3\) uint8 RGB, got \(4, 4\)"),
            (np.zeros((4, 4, 4), np.uint8), ValueError, r"got \(4, 4, 4\)"),
            (np.zeros((4, 4, 3), np.float32), ValueError, "float32"),
            (np.zeros((0, 4, 3), np.uint8), ValueError, r"\(0, 4, 3\)"),
            (torch.zeros(1, 3, 4, 4), TypeError, "Tensor; normalised tensors go to model.predict"),
            (None, TypeError, "NoneType"),
        ],
    )
    def test_images(self, predictor, bad, error, words):
        with pytest.raises(error, match=words):
            predictor(bad)

    def test_files(self, predictor, tmp_path):
        with pytest.raises(ImageError, match="no such file"):
            predictor(tmp_path / "none.jpg")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"device": "cuda:99"}, "device must be .* got 'cuda:99'; see `segnext doctor`"),
            ({"device": "gpu"}, "got 'gpu'"),
            ({"dtype": torch.int32}, "dtype"),
        ],
    )
    def test_options(self, model, options, words):
        with pytest.raises(ValueError, match=words):
            Predictor(model, **options)

    def test_other_models(self):
        with pytest.raises(TypeError, match="must be a SegNeXt .* got MSCAN"):
            Predictor(mscan_t())
        with pytest.raises(ValueError, match="in_channels=4"):
            Predictor(segnext_t(num_classes=2, in_channels=4))

    def test_weights_of_a_classifier(self, tmp_path):
        save(mscan_t(num_classes=2), tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match="must be of a SegNeXt, got mscan_t"):
            Predictor(tmp_path / "w.safetensors")

    @pytest.mark.parametrize(
        "metadata",
        [
            {"classes": ["a"]},
            {"classes": "ab"},
            {"classes": {0: "a", 1: "b"}},
            {"palette": [[0, 0, 0]]},
            {"palette": [[0, 0, 300]] * 2},
            {"palette": [[0.5] * 3] * 2},
        ],
    )
    def test_metadata_that_does_not_fit(self, metadata):
        network = segnext_t(num_classes=2)
        network.metadata = metadata
        with pytest.raises(ValueError, match="must be 2"):
            Predictor(network)

    @pytest.mark.parametrize("name", ["inference", "preprocessing"])
    def test_options_of_another_type(self, model, name):
        with pytest.raises(
            TypeError, match=rf"{name} must be a segnext\..*\.{name.capitalize()}, got a dict"
        ):
            Predictor(model, **{name: {"mode": "slide"}})

    def test_too_large_for_the_memory(self, predictor, image, monkeypatch):
        # A real request that no machine can serve gives the message of torch's CPU allocator.
        def oversized(*_: object) -> torch.Tensor:
            return torch.empty(1 << 60)

        monkeypatch.setattr(predictor._network, "predict", oversized)
        with pytest.raises(MemoryError, match="not enough memory for 90x70 pixels .* use mode='slide'"):
            predictor(image)
        monkeypatch.setattr(predictor, "inference", Inference(scales=(0.5, 2)))
        monkeypatch.setattr(predictor._network, "forward_logits", oversized)
        with pytest.raises(
            MemoryError, match="90x70 pixels, which the network sees as 180x140; use smaller scales"
        ):
            predictor(image)


@pytest.mark.skipif("camvid" not in shipped(), reason="the camvid weights are not in this checkout")
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not at {CAMVID}; set SEGNEXT_CAMVID")
def test_shipped_weights_see_a_street():
    file = sorted((CAMVID / "images" / "val").iterdir())[50]
    label = np.array(Image.open(CAMVID / "labels" / "val" / f"{file.stem}.png"))
    mask = Predictor("camvid")(file).mask
    counted = label != 255
    assert (mask == label)[counted].mean() > 0.8
