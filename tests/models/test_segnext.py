"""Tests SegNeXt's public methods: shapes, determinism, losses, masks, gradients, refusals."""

import re

import pytest
import torch
import torch.nn.functional as F

from segnext.models import build


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("segnext_t", num_classes=11).eval()


def images(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 70), (33, 32), (97, 203), (64, 31)], ids=lambda s: f"h{s[0]}w{s[1]}"
)
def test_any_size_gives_logits_at_input_size(model, size):
    height, width = size
    x = images(2, 3, height, width)
    with torch.inference_mode():
        features, small, logits = model.forward_features(x), model.forward_logits(x), model(x)
    for feature, channels, stride in zip(features, (32, 64, 160, 256), (4, 8, 16, 32), strict=True):
        assert feature.shape == (2, channels, -(-height // stride), -(-width // stride))
    assert small.shape == (2, 11, -(-height // 8), -(-width // 8))
    assert logits.shape == (2, 11, height, width)
    torch.testing.assert_close(logits, F.interpolate(small, (height, width), mode="bilinear"))
    assert torch.isfinite(logits).all()


def test_features_and_logits_stay_channels_last(model):
    x = images(2, 3, 64, 96)
    for tensor in (*model.forward_features(x), model.forward_logits(x)):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_memory_format_of_the_images_does_not_matter(model):
    x = images(2, 3, 40, 56)
    with torch.inference_mode():
        torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), model(x))
        torch.testing.assert_close(
            model(images(2, 3, 40, 112)[..., ::2]), model(images(2, 3, 40, 112)[..., ::2].clone())
        )


def test_channels_last_weights_give_the_same_logits(model):
    x = images(1, 3, 40, 56)
    converted = build("segnext_t", num_classes=11).eval()
    converted.load_state_dict(model.state_dict())
    converted.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-5)


def test_evaluation_is_deterministic_whatever_the_seed(model):
    x = images(2, 3, 48, 48)
    with torch.inference_mode():
        torch.manual_seed(3)
        first = model(x)
        torch.manual_seed(4)
        assert torch.equal(model(x), first)


def test_each_image_is_segmented_by_itself(model):
    x = images(3, 3, 48, 48)
    with torch.inference_mode():
        alone = torch.cat([model(image[None]) for image in x])
        torch.testing.assert_close(model(x), alone, rtol=1e-4, atol=1e-5)


def test_an_empty_batch_gives_empty_outputs(model):
    x = images(0, 3, 48, 64)
    with torch.inference_mode():
        assert model(x).shape == (0, 11, 48, 64)
    assert model.predict(x).shape == (0, 48, 64)


def test_predict_is_the_argmax_of_the_logits(model):
    x = images(2, 3, 53, 75)
    mask = model.predict(x)
    assert mask.shape == (2, 53, 75) and mask.dtype == torch.uint8
    with torch.inference_mode():
        # Two classes may differ by less than float rounding at single pixels.
        assert (mask == model(x).argmax(1)).float().mean() > 0.999
        wanted = F.interpolate(model.forward_logits(x), (20, 31), mode="bilinear").argmax(1)
    assert (model.predict(x, (20, 31)) == wanted).float().mean() > 0.995
    assert mask.unique().numel() > 1


def test_a_predicted_mask_is_an_ordinary_tensor(model):
    mask = model.predict(images(1, 3, 32, 32))
    mask[mask == 3] = 0  # raises on tensors made in inference mode
    assert not mask.requires_grad and not mask.is_inference()


def test_predict_in_training_mode_names_the_cure():
    training = build("segnext_t")
    with pytest.raises(
        RuntimeError, match=r"segnext_t: predict .* got training mode; call model.eval\(\) first"
    ):
        training.predict(images(1, 3, 32, 32))
    assert training.training


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8], ids=str)
def test_loss_is_cross_entropy_of_the_full_size_logits(model, dtype):
    x = images(2, 3, 53, 75)
    targets = torch.randint(0, 11, (2, 53, 75), generator=torch.Generator().manual_seed(2))
    targets[:, :9] = 255
    logits = model(x).detach().double()
    weight = torch.linspace(0.5, 2, 11)
    expected = F.cross_entropy(logits, targets, weight.double(), ignore_index=255, label_smoothing=0.1)
    loss = model.loss(x, targets.to(dtype), class_weight=weight, label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    counted = F.cross_entropy(logits, targets, ignore_index=255, reduction="sum") / targets.numel()
    assert model.loss(x, targets.to(dtype), reduction="mean_all").item() == pytest.approx(
        counted.item(), rel=1e-5
    )


@pytest.mark.parametrize(
    "overrides", [{}, {"nmf_grad": "one_step"}, {"recompute": True}, {"dropout": 0.1}], ids=str
)
def test_gradients_reach_every_parameter(overrides):
    torch.manual_seed(0)
    network = build("segnext_t", num_classes=5, drop_path=0.0, **overrides)
    network.loss(images(2, 3, 64, 80), torch.randint(0, 5, (2, 64, 80))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        # A bias before a BatchNorm in training mode has no effect but rounding.
        if not re.fullmatch(r"backbone\.(stem\.conv\d|downsamples\.\d\.conv)\.bias", name):
            assert parameter.grad.abs().max() > 0, name


def test_a_few_steps_of_training_lower_the_loss():
    torch.manual_seed(0)
    network = build("segnext_t", num_classes=3, drop_path=0.0, decoder_channels=64)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    x = images(2, 3, 32, 32)
    targets = (x[:, 0] > 0).long() + (x[:, 1] > 1).long()
    losses = []
    for _ in range(12):
        loss = network.loss(x, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_bfloat16_autocast_is_finite_and_close(model):
    x = images(2, 3, 64, 80)
    with torch.inference_mode():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
    assert torch.isfinite(logits).all()
    assert (logits.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_bfloat16_autocast_trains():
    torch.manual_seed(0)
    network = build("segnext_t", num_classes=5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network.loss(images(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64)))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_double_precision_agrees_with_single(model):
    double = build("segnext_t", num_classes=11).eval()
    double.load_state_dict(model.state_dict())
    double.double()
    x = images(1, 3, 40, 56)
    with torch.inference_mode():
        exact = double(x.double())
        assert exact.dtype == torch.float64
        torch.testing.assert_close(model(x).double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("in_channels", [1, 2, 5])
def test_any_number_of_input_channels(in_channels):
    network = build("segnext_t", in_channels=in_channels, num_classes=2).eval()
    x = images(2, in_channels, 40, 64)
    with torch.inference_mode():
        assert network(x).shape == (2, 2, 40, 64)
        for feature in network.forward_features(x):
            assert feature.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (images(3, 32, 32), ValueError, r"must be \(N, 3, H, W\), got \(3, 32, 32\); add a batch axis"),
        (images(1, 4, 32, 32), ValueError, r"must be \(N, 3, H, W\), got \(1, 4, 32, 32\); in_channels="),
        (images(1, 3, 0, 32), ValueError, r"got \(1, 3, 0, 32\)"),
        (
            images(1, 3, 32, 32).to(torch.uint8),
            TypeError,
            r"normalised floating-point pixels, got torch.uint8",
        ),
        (
            images(1, 3, 32, 32).double(),
            TypeError,
            r"must be torch.float32 as the weights, got torch.float64",
        ),
        (
            images(1, 3, 32, 32).to("meta"),
            ValueError,
            r"on the model's device cpu, got meta; .*images.to\('cpu'\)",
        ),
        ([[0.0]], TypeError, r"must be a tensor of normalised pixels, got list; segnext.Predictor"),
        (
            images(1, 3, 8, 8).to_mkldnn(),
            TypeError,
            r"must be a dense tensor, got layout _mkldnn; .*to_dense",
        ),
    ],
    ids=["ndim", "channels", "no-pixels", "uint8", "float64", "device", "list", "layout"],
)
def test_wrong_images_are_refused_in_one_line(model, x, error, message):
    for method in (model, model.forward_features, model.forward_logits, model.predict):
        with pytest.raises(error, match=message) as raised:
            method(x)
        assert str(raised.value).startswith("segnext_t: images must be") and "\n" not in str(raised.value)


def test_autocast_leaves_float64_alone(model):
    with (
        torch.autocast("cpu"),
        pytest.raises(TypeError, match="must be torch.float32 as the weights, got torch.float64"),
    ):
        model(images(1, 3, 32, 32).double())


def test_targets_of_another_size_are_refused(model):
    with pytest.raises(ValueError):
        model.loss(images(2, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long))
