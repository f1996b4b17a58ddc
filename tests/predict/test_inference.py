"""Compares whole, sliding, multi-scale and mirrored inference with plain transcriptions of the protocols."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segnext import segnext_t
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
    return F.interpolate(coarse, (height, width), mode="bicubic").contiguous(
        memory_format=torch.channels_last
    )


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
            torch.testing.assert_close(predict_logits(model, x), model(x))

    def test_mask_is_the_fused_argmax(self, model):
        x = images(45, 61, count=2)
        mask = predict_mask(model, x)
        assert mask.dtype == torch.uint8 and mask.shape == (2, 45, 61)
        assert len(mask.unique()) > 1
        assert torch.equal(mask, model.predict(x))

    def test_another_output_size(self, model):
        x = images(45, 61)
        with torch.no_grad():
            expected = F.interpolate(model.forward_logits(x), (90, 31), mode="bilinear")
        torch.testing.assert_close(predict_logits(model, x, (90, 31)), expected)
        assert (predict_mask(model, x, (90, 31)) == expected.argmax(1)).float().mean() > 0.999

    def test_size_divisor_resizes_and_gives_the_native_size(self, model):
        x = images(45, 61)
        inference = Inference(size_divisor=32)
        with torch.no_grad():
            seen = F.interpolate(x, (64, 64), mode="bilinear")
            expected = F.interpolate(model.forward_logits(seen), (45, 61), mode="bilinear")
        torch.testing.assert_close(predict_logits(model, x, inference=inference), expected)
        assert (predict_mask(model, x, inference=inference) == expected.argmax(1)).float().mean() > 0.999

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
        expected = sliding_by_definition(model, x, crop, stride)
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
        seen = F.interpolate(x, (90, 120), mode="bilinear")
        expected = F.interpolate(sliding_by_definition(model, seen, 64, 32), (60, 80), mode="bilinear")
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
            seen = F.interpolate(x, size, mode="bilinear")
            for view in (seen, seen.flip(3)):
                with torch.no_grad():
                    # Whole: resized once, from H/8 to the result, instead of twice as mmsegmentation does.
                    slide = mode == "slide"
                    logits = (
                        sliding_by_definition(model, view, 48, 36) if slide else model.forward_logits(view)
                    )
                logits = logits.flip(3) if view is not seen else logits
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


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "size", "seen"),
        [
            ({}, (361, 481), (361, 481)),
            ({"size_divisor": 32}, (512, 683), (512, 704)),
            ({"short_side": 512, "size_divisor": 32}, (600, 1000), (512, 864)),
            ({"short_side": 512, "size_divisor": 32}, (200, 4000), (128, 2048)),  # ADE20K: fits (2048, 512)
            ({"short_side": 512}, (4000, 200), (2048, 102)),
            ({"short_side": 360}, (720, 960), (360, 480)),
            ({"short_side": 4}, (1, 1), (4, 4)),
            ({"short_side": 0, "size_divisor": 32}, (361, 481), (384, 512)),
        ],
    )
    def test_view_size(self, options, size, seen):
        assert Inference(**options).view_size(*size) == seen

    def test_scale_and_smallest_size(self):
        assert Inference().view_size(101, 3, 0.5) == (51, 2)
        assert Inference().view_size(1, 1, 0.01) == (1, 1)

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
            ({"size_divisor": 0}, "size_divisor"),
            ({"short_side": -1}, "short_side must be at least 1 pixel, 0 for native size, or None, got -1"),
            ({"batch": 0}, "batch"),
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
