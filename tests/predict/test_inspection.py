"""Compares maps of certainty with float64 on whole tensors, and colours of features with a singular decomposition."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segnext import Predictor, segnext_t
from segnext.data.preprocessing import normalise
from segnext.data.resizing import resize
from segnext.models import SegNeXt
from segnext.predict import windows
from segnext.predict.inference import Inference, encoder_features, predict_mask, predict_probabilities
from segnext.predict.inspection import inspect, principal_colours

HEIGHT, WIDTH = 75, 93


def _model(**options: float | bool) -> SegNeXt:
    torch.manual_seed(0)
    model = segnext_t(**{"num_classes": 5, **options})
    with torch.no_grad():  # BN statistics of the data, so that the logits differ from place to place
        for _ in range(3):
            model.train()(torch.randn(2, 3, 64, 64))
        model.decoder.classifier.weight.mul_(30)
    return model.eval()


@pytest.fixture(scope="module")
def models() -> dict[str, SegNeXt]:
    return {
        "softmax": _model(),
        "sigmoid": _model(num_classes=2, threshold=0.3),
        "align_corners": _model(align_corners=True),
    }


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    coarse = torch.randn(1, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    return (64 * F.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic") + 128).clip(0, 255).to(torch.uint8)


@pytest.fixture(params=[None, 1], ids=["one-band", "bands-of-a-row"])
def band(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(windows, "_BAND", request.param)


@torch.no_grad()
def probabilities(model: SegNeXt, pixels: Tensor, scales: tuple[float, ...], flip: bool) -> Tensor:
    """Return the mean over all views in float64, each by its definition."""
    views = []
    for scale in scales:
        small = resize(pixels, (int(HEIGHT * scale + 0.5), int(WIDTH * scale + 0.5)))
        for mirrored in (False, True) if flip else (False,):
            seen = normalise(small.flip(3) if mirrored else small)
            logits = model(seen, resize=False).double()
            logits = logits.flip(3) if mirrored else logits
            corners = model.config.align_corners
            full = F.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear", align_corners=corners)
            sigmoid = full.sigmoid()
            views.append(full.softmax(1) if len(full[0]) > 1 else torch.cat([1 - sigmoid, sigmoid], 1))
    return torch.stack(views).mean(0)


def maps_of(p: Tensor) -> dict[str, Tensor]:
    best = p.sort(1, descending=True).values
    entropy = -(p * p.log()).sum(1) / math.log(p.shape[1])
    return {"confidence": best[:, 0], "entropy": entropy, "margin": best[:, 0] - best[:, 1]}


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "align_corners"])
@pytest.mark.parametrize(
    ("scales", "flip"), [((1.0,), False), ((1.0,), True), ((0.75, 1.5), True)], ids=["once", "flip", "scales"]
)
def test_maps(models, photograph, kind, scales, flip, band):
    model = models[kind]
    expected = maps_of(probabilities(model, photograph, scales, flip))
    found = inspect(model, photograph, inference=Inference(scales=scales, flip=flip))
    assert list(found) == ["confidence", "entropy", "margin"]
    for name, values in found.items():
        assert values.shape == (HEIGHT, WIDTH) and values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name][0], atol=2e-5, err_msg=name)
        assert values.std() > 0.01, name  # the model is not equally sure everywhere


@pytest.mark.parametrize(
    "inference",
    [
        Inference(mode="slide", crop=40, stride=24),
        Inference(mode="slide", crop=40, stride=24, flip=True),
        Inference(mode="slide", crop=40, short_side=60),
        Inference(protocol="mmseg1"),
        Inference(protocol="official", short_side=50),
    ],
    ids=str,
)
def test_the_probabilities_are_those_of_the_mask(models, photograph, inference, band):
    """The largest one is of the mask's class, wherever it is more than rounding above the next."""
    bands = list(predict_probabilities(models["softmax"], photograph, inference=inference))
    p = torch.cat(bands, 2)
    assert p.shape == (1, 5, HEIGHT, WIDTH)
    torch.testing.assert_close(p.sum(1), torch.ones(1, HEIGHT, WIDTH))
    best = p.sort(1, descending=True).values
    sure = best[:, 0] - best[:, 1] > 1e-5
    mask = predict_mask(models["softmax"], photograph, inference=inference)
    assert sure.double().mean() > 0.99 and len(mask.unique()) > 1
    assert torch.equal(p.argmax(1)[sure], mask[sure].long())


def test_only_what_is_asked_for(models, photograph):
    alone = inspect(models["softmax"], photograph, maps=("margin",))
    together = inspect(models["softmax"], photograph)
    assert list(alone) == ["margin"]
    np.testing.assert_array_equal(alone["margin"], together["margin"])


@pytest.mark.parametrize("maps", ["margin", ("margin", "doubt")])
def test_other_maps_are_refused(models, photograph, maps):
    with pytest.raises(
        ValueError, match="maps must be a sequence of confidence, entropy, margin, got '(margin|doubt)'"
    ):
        inspect(models["softmax"], photograph, maps=maps)


class TestFeatures:
    @pytest.mark.parametrize("stage", [1, 2, 3, 4])
    def test_they_are_the_encoder_s(self, models, photograph, stage):
        model = models["softmax"]
        found = encoder_features(model, photograph, stage)
        with torch.no_grad():
            expected = model.forward_features(normalise(photograph))[stage - 1]
        torch.testing.assert_close(found, expected.contiguous(memory_format=torch.channels_last))

    def test_padding_is_left_out(self, models, photograph):
        model = models["softmax"]
        found = encoder_features(model, photograph, 1, inference=Inference(protocol="mmseg1"))
        assert found.shape == (1, 32, 19, 24)  # a quarter of 75 x 93, although the network sees 96 x 96

    @pytest.mark.parametrize("stage", [0, 5, "last"])
    def test_other_stages_are_refused(self, models, photograph, stage):
        with pytest.raises(ValueError, match="features: stage must be from 1 to 4, got"):
            encoder_features(models["softmax"], photograph, stage)

    def test_a_predictor_gives_them(self, models, photograph):
        pixels = photograph[0].permute(1, 2, 0).numpy()
        predictor = Predictor(models["softmax"], device="cpu")
        found = predictor.features(pixels, 2)
        np.testing.assert_array_equal(found, encoder_features(predictor.model, photograph, 2)[0])
        sure = predictor.inspect(pixels)["confidence"]
        np.testing.assert_allclose(sure, inspect(models["softmax"], photograph)["confidence"], atol=1e-4)


class TestPrincipalColours:
    def test_they_are_the_singular_vectors(self):
        features = np.random.default_rng(0).normal(size=(40, 9, 11)) * np.linspace(1, 9, 40)[:, None, None]
        shown = principal_colours(features.astype(np.float32))
        cells = features.reshape(40, -1).T
        left, values, right = np.linalg.svd(cells - cells.mean(0), full_matrices=False)
        shares = values[:3] ** 2 / (values**2).sum()
        np.testing.assert_allclose(shown.shares, shares, rtol=1e-5)
        for place in range(3):
            sign = np.sign(right[place][np.abs(right[place]).argmax()])
            order = (sign * left[:, place]).argsort()
            channel = shown.colours[..., place].reshape(-1).astype(int)[order]
            assert (np.diff(channel) >= 0).all() and channel[0] == 0 and channel[-1] == 255

    def test_two_runs_and_another_order_of_pixels_give_the_same_colours(self):
        features = np.random.default_rng(0).normal(size=(8, 6, 7)).astype(np.float32)
        first, turned = principal_colours(features), principal_colours(features[:, ::-1])
        np.testing.assert_array_equal(first.colours, principal_colours(features.copy()).colours)
        assert np.abs(first.colours[::-1].astype(int) - turned.colours).max() <= 1

    @pytest.mark.parametrize("size", [(1, 1), (5, 6)])
    def test_equal_features_are_gray(self, size):
        shown = principal_colours(np.full((32, *size), 7.5, np.float32))
        assert (shown.colours == 128).all() and shown.shares == (0, 0, 0)

    def test_a_direction_that_does_not_exist_is_gray(self):
        features = np.random.default_rng(0).normal(size=(1, 5, 6)) * np.arange(1, 5)[:, None, None]
        shown = principal_colours(features)
        assert shown.shares[0] == pytest.approx(1) and (shown.colours[..., 1:] == 128).all()
        assert shown.colours[..., 0].min() == 0

    @pytest.mark.parametrize(
        "features", [np.zeros((2, 4, 4)), np.zeros((4, 0, 4)), np.full((4, 4, 4), np.nan), np.zeros((4, 4))]
    )
    def test_others_are_refused(self, features):
        with pytest.raises(ValueError, match=r"features must be finite \(C, h, w\)"):
            principal_colours(features)


def test_an_exported_file(tmp_path: Path, models, photograph):
    """Its maps are the model's; it has no features; one that gives masks has no maps."""
    from segnext import export_model

    pixels = photograph[0].permute(1, 2, 0).numpy()
    model = models["softmax"]
    export_model(model, tmp_path / "a.torchscript", "torchscript", height=HEIGHT, width=WIDTH)
    exported = Predictor(tmp_path / "a.torchscript")
    expected = Predictor(model, device="cpu").inspect(pixels)
    for name, values in exported.inspect(pixels).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-3, err_msg=name)
    with pytest.raises(ValueError, match="features must be of a model in PyTorch, got an exported file"):
        exported.features(pixels)
    export_model(model, tmp_path / "b.torchscript", "torchscript", height=HEIGHT, width=WIDTH, output="mask")
    with pytest.raises(ValueError, match="got a mask; export it without --mask"):
        Predictor(tmp_path / "b.torchscript").inspect(pixels)
