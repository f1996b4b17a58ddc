"""Compares whole, sliding, multi-scale and mirrored inference with plain transcriptions of the protocols."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segnext import segnext_t
from segnext.data.preprocessing import Preprocessing, normalise
from segnext.data.resizing import resize
from segnext.predict.inference import Inference, predict_logits, predict_mask

CLASSES = 5


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = segnext_t(num_classes=CLASSES)
    with torch.no_grad():  # BN statistics of the data, so that the logits differ from place to place
        for _ in range(3):
            network.train()(torch.randn(2, 3, 96, 96))
        network.decoder.classifier.weight.mul_(30)
    return network.eval()


def images(height: int, width: int, count: int = 1) -> torch.Tensor:
    coarse = torch.randn(count, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic")
    return (64 * smooth + 128).clip(0, 255).to(torch.uint8)


def seen(pixels: torch.Tensor, *sizes: tuple[int, int]) -> torch.Tensor:
    """Return the network's input after some resizes."""
    for size in sizes:
        pixels = resize(pixels, size)
    return normalise(pixels)


@torch.no_grad()
def sliding_by_definition(model, x, crop, stride):
    """Infer as mmsegmentation's slide_inference: full-size sums and a count, window by window."""
    n, _, height, width = x.shape
    sums, counts = torch.zeros(n, CLASSES, height, width), torch.zeros(height, width)
    for row in range(max(height - crop + stride - 1, 0) // stride + 1):
        for column in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            sums[:, :, top:bottom, left:right] += model(x[:, :, top:bottom, left:right])
            counts[top:bottom, left:right] += 1
    assert counts.min() >= 1
    return sums / counts


class TestWhole:
    def test_logits_are_the_model_s(self, model):
        x = images(45, 61)
        with torch.no_grad():
            torch.testing.assert_close(predict_logits(model, x), model(normalise(x)))

    def test_mask_is_the_fused_argmax(self, model):
        x = images(45, 61, count=2)
        mask = predict_mask(model, x)
        assert mask.dtype == torch.uint8 and mask.shape == (2, 45, 61)
        assert len(mask.unique()) > 1
        assert torch.equal(mask, model.predict(normalise(x)))

    def test_a_preprocessing_of_its_own(self, model):
        x, own = images(45, 61), Preprocessing((10.0, 20.0, 30.0), (90.0, 80.0, 70.0))
        assert torch.equal(predict_mask(model, x, own), model.predict(own(x)))

    @pytest.mark.parametrize("function", [predict_logits, predict_mask])
    def test_normalised_images_are_refused(self, model, function):
        with pytest.raises(
            TypeError, match="uint8, got .* torch.float32; normalised tensors go to model.predict"
        ):
            function(model, normalise(images(45, 61)))

    def test_results_can_be_changed_in_place(self, model):
        predict_mask(model, images(45, 61)).add_(1)
        predict_logits(model, images(45, 61)).add_(1)


class TestSliding:
    @pytest.mark.parametrize(
        ("height", "width", "crop", "stride"),
        [
            (96, 130, 64, 48),
            (64, 64, 64, 48),
            (50, 150, 64, 64),
            (150, 50, 64, 16),
            (33, 47, 64, 48),
            (97, 71, 32, 21),
        ],
    )
    @pytest.mark.parametrize("batch", [1, 3])
    def test_equals_the_definition(self, model, height, width, crop, stride, batch):
        x = images(height, width, count=2)
        inference = Inference(mode="slide", crop=crop, stride=stride, batch=batch)
        expected = sliding_by_definition(model, normalise(x), crop, stride)
        torch.testing.assert_close(
            predict_logits(model, x, inference=inference), expected, rtol=1e-4, atol=1e-4
        )
        mask = predict_mask(model, x, inference=inference)
        assert mask.shape == (2, height, width) and mask.dtype == torch.uint8
        assert (mask == expected.argmax(1)).float().mean() > 0.999

    def test_the_mask_never_holds_full_size_logits(self, model):
        class LargestScores(TorchDispatchMode):
            rows = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                result = func(*args, **(kwargs or {}))
                for tensor in tree_leaves(result):
                    if isinstance(tensor, torch.Tensor) and tensor.ndim == 4 and tensor.shape[1] == CLASSES:
                        self.rows = max(self.rows, tensor.shape[2])
                return result

        x = images(400, 40)
        with LargestScores() as largest:
            predict_mask(model, x, inference=Inference(mode="slide", crop=48))
        assert 0 < largest.rows <= 48

    def test_resized_first(self, model):
        x = images(60, 80)
        inference = Inference(mode="slide", crop=64, stride=32, short_side=90)
        expected = sliding_by_definition(model, seen(x, (90, 120)), 64, 32)
        expected = F.interpolate(expected, (60, 80), mode="bilinear")
        torch.testing.assert_close(
            predict_logits(model, x, inference=inference), expected, rtol=1e-4, atol=1e-4
        )
        assert predict_mask(model, x, inference=inference).shape == (1, 60, 80)


class TestSeveralViews:
    SCALES = (0.5, 1.0, 1.75)

    def by_definition(self, model, x, mode):
        total = 0
        for scale in self.SCALES:
            size = [int(side * scale + 0.5) for side in x.shape[2:]]
            straight = seen(x, size)
            for view in (straight, straight.flip(3)):
                with torch.no_grad():
                    # Whole: resized once, from H/8 to the result.
                    slide = mode == "slide"
                    logits = (
                        sliding_by_definition(model, view, 48, 36) if slide else model.forward_logits(view)
                    )
                logits = logits.flip(3) if view is not straight else logits
                total = total + F.interpolate(logits, x.shape[2:], mode="bilinear").softmax(1)
        return total / 6

    @pytest.mark.parametrize("mode", ["whole", "slide"])
    def test_probabilities_are_averaged(self, model, mode):
        x = images(50, 66)
        inference = Inference(mode=mode, crop=48, scales=self.SCALES, flip=True)
        assert inference.views == 6
        scores = predict_logits(model, x, inference=inference)
        expected = self.by_definition(model, x, mode)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(scores.sum(1), torch.ones(1, 50, 66))
        mask = predict_mask(model, x, inference=inference)
        assert torch.equal(mask, scores.argmax(1).to(torch.uint8))

    def test_flip_makes_the_prediction_symmetric(self, model):
        x = images(48, 64)
        inference = Inference(flip=True)
        straight = predict_logits(model, x, inference=inference)
        mirrored = predict_logits(model, x.flip(3), inference=inference)
        torch.testing.assert_close(mirrored.flip(3), straight, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(straight, predict_logits(model, x).softmax(1), atol=1e-3)


class TestProtocols:
    """The published pipelines step by step, as INTEROP's software takes them."""

    @torch.no_grad()
    def official(self, model, x, first, second, size, mirrored=False):
        view = seen(x, first, second)
        view = view.flip(3) if mirrored else view
        logits = F.interpolate(model.forward_logits(view), second, mode="bilinear")
        return F.interpolate(logits.flip(3) if mirrored else logits, size, mode="bilinear")

    @torch.no_grad()
    def mmseg1(self, model, x, first, padded, size, mirrored=False):
        view = seen(x, first)
        view = view.flip(3) if mirrored else view
        view = F.pad(view, (0, padded[1] - first[1], 0, padded[0] - first[0]))
        logits = F.interpolate(model.forward_logits(view), padded, mode="bilinear")[
            ..., : first[0], : first[1]
        ]
        return F.interpolate(logits.flip(3) if mirrored else logits, size, mode="bilinear")

    @pytest.mark.parametrize("protocol", ["official", "mmseg1"])
    @pytest.mark.parametrize(
        ("size", "short_side", "first", "second"),
        [
            ((45, 61), None, (45, 61), (64, 64)),
            ((50, 66), 70, (70, 92), (96, 96)),
            ((64, 96), 0, (64, 96), (64, 96)),
        ],
    )
    def test_one_view(self, model, protocol, size, short_side, first, second):
        x = images(*size, count=2)
        inference = Inference(protocol=protocol, short_side=short_side)
        expected = getattr(self, protocol)(model, x, first, second, size)
        torch.testing.assert_close(
            predict_logits(model, x, inference=inference), expected, rtol=1e-4, atol=1e-4
        )
        mask = predict_mask(model, x, inference=inference)
        assert (mask == expected.argmax(1)).float().mean() > 0.999

    @pytest.mark.parametrize(("protocol", "first"), [("official", (22, 30)), ("mmseg1", (23, 31))])
    def test_several_views_whose_sides_are_truncated_or_rounded(self, model, protocol, first):
        x = images(45, 61)
        views = [((45, 61), (64, 64)), (first, (32, 32))]
        run = getattr(self, protocol)
        expected = sum(
            run(model, x, *sizes, (45, 61), mirrored).softmax(1)
            for sizes in views
            for mirrored in (False, True)
        )
        scores = predict_logits(model, x, inference=Inference(protocol=protocol, scales=(1, 0.5), flip=True))
        torch.testing.assert_close(scores, expected / 4, rtol=0, atol=1e-4)

    def test_windows_of_a_padded_image(self, model):
        x = images(45, 61)
        padded = F.pad(normalise(x), (0, 3, 0, 19))
        expected = sliding_by_definition(model, padded, 48, 36)[..., :45, :61]
        inference = Inference(protocol="mmseg1", mode="slide", crop=48)
        torch.testing.assert_close(
            predict_logits(model, x, inference=inference), expected, rtol=1e-4, atol=1e-4
        )
        assert (predict_mask(model, x, inference=inference) == expected.argmax(1)).float().mean() > 0.999


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "size", "resized", "seen"),
        [
            ({}, (361, 481), (361, 481), (361, 481)),
            ({"short_side": 512}, (4000, 200), (2048, 102), (2048, 102)),
            ({"short_side": 360}, (720, 960), (360, 480), (360, 480)),
            ({"short_side": 4}, (1, 1), (4, 4), (4, 4)),
            ({"protocol": "official"}, (512, 683), (512, 683), (512, 704)),
            ({"protocol": "official", "short_side": 512}, (600, 1000), (512, 853), (512, 864)),
            ({"protocol": "official", "short_side": 512}, (200, 4000), (102, 2048), (128, 2048)),
            ({"protocol": "official", "short_side": 0}, (361, 481), (361, 481), (384, 512)),
            ({"protocol": "mmseg1", "short_side": 512}, (360, 480), (512, 683), (512, 704)),
        ],
    )
    def test_sizes(self, options, size, resized, seen):
        assert Inference(**options).resized(*size) == resized
        assert Inference(**options).seen(*size) == seen

    @pytest.mark.parametrize(
        ("protocol", "scale", "resized"),
        [
            ("native", 0.5, (166, 231)),
            ("native", 0.75, (248, 346)),
            ("official", 0.5, (165, 230)),  # what mmsegmentation 0.24.1 gives
            ("official", 0.75, (248, 345)),
            ("mmseg1", 0.5, (166, 231)),
        ],
    )
    def test_scaled_sides(self, protocol, scale, resized):
        assert Inference(protocol=protocol).resized(331, 461, scale) == resized

    @pytest.mark.parametrize("protocol", ["native", "official", "mmseg1"])
    def test_smallest_size(self, protocol):
        assert Inference(protocol=protocol).resized(1, 1, 0.01) == (1, 1)
        assert Inference(protocol=protocol, short_side=1).resized(1, 900, 0.1) == (1, 1)

    def test_in_words(self):
        assert str(Inference()) == "protocol native, short side native"
        inference = Inference(
            protocol="mmseg1", mode="slide", crop=64, scales=(0.5, 1), flip=True, short_side=48
        )
        words = "protocol mmseg1, short side 48, windows of 64 every 48, scales 0.5 1, mirrored too"
        assert str(inference) == words

    def test_stride_defaults_to_cityscapes_proportion(self):
        assert Inference(crop=1024).stride == 768

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"mode": "tiles"}, "mode must be 'whole' or 'slide', got 'tiles'"),
            ({"crop": 0}, "crop must be at least 1"),
            ({"crop": 10, "stride": 11}, "stride must be from 1 to the crop, 10, got 11"),
            ({"stride": 0}, "stride"),
            ({"scales": ()}, "scales"),
            ({"scales": (1, 0)}, "scales"),
            ({"scales": (float("inf"),)}, "scales"),
            ({"protocol": "mmseg"}, "protocol must be one of native, official, mmseg1, got 'mmseg'"),
            ({"scales": (float("nan"),)}, "scales"),
            ({"scales": (1, 1e308)}, "scales must be numbers above 0 and up to 100, at least one, got"),
            ({"scales": "1"}, "scales must be a tuple of numbers, got '1'"),
            ({"scales": 2.0}, "scales must be a tuple of numbers, got 2.0"),
            ({"short_side": -1}, "short_side must be 1 to 8192 pixels, 0 for native size, or None, got -1"),
            ({"short_side": 10**12}, "short_side must be 1 to 8192 pixels"),
            ({"short_side": 1.5}, "short_side must be 1 to 8192 pixels"),
            ({"crop": 1.5}, "crop must be a whole number of pixels, got 1.5"),
            ({"stride": 1.5}, "stride must be from 1 to the crop"),
            ({"flip": "no"}, "flip must be True or False, got 'no'"),
            ({"batch": 0}, "batch"),
            ({"batch": 1.5}, "batch must be a whole number from 1, got 1.5"),
        ],
    )
    def test_refused(self, options, words):
        with pytest.raises(ValueError, match=f"^inference: .*{words}"):
            Inference(**options)

    @pytest.mark.parametrize(
        ("own", "default", "chosen"),
        [(None, None, None), (None, 35, 35), (50, 35, 50), (0, 35, 0), (0, None, 0), (50, None, 50)],
    )
    def test_the_weights_short_side_is_a_default(self, own, default, chosen):
        inference = Inference(mode="slide", crop=64, stride=16, flip=True, short_side=own)
        expected = Inference(mode="slide", crop=64, stride=16, flip=True, short_side=chosen)
        assert inference.for_weights(default) == expected

    @pytest.mark.parametrize("function", [predict_logits, predict_mask])
    def test_training_mode_is_refused(self, function):
        with pytest.raises(RuntimeError, match="^inference: the model must be in evaluation mode"):
            function(segnext_t(num_classes=2).train(), images(32, 32), inference=Inference(mode="slide"))

    def test_many_classes_give_int32(self):
        network = segnext_t(num_classes=300).eval()
        for inference in (Inference(), Inference(mode="slide", crop=32), Inference(flip=True)):
            assert predict_mask(network, images(40, 40), inference=inference).dtype == torch.int32
