"""Tests tracing (jit, fx), functional calls, deterministic algorithms, and numbers of other kinds than Python's."""

import numpy as np
import pytest
import torch
import torch.fx
from torch import nn
from torch.func import functional_call, grad

from segnext.models import build

TINY = {"channels": (16, 32, 32, 32), "depths": (1, 1, 1, 1), "decoder_channels": 32, "rank": 4}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build("segnext_t", num_classes=3, **TINY).eval()


def batch(size=2, height=48, width=64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 3, height, width, generator=generator)
    return x, torch.randint(3, (size, height, width), generator=generator)


@pytest.fixture
def predictor(model):
    class Mask(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model.predict(images)

    return Mask().eval()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*jit.trace:DeprecationWarning")
def test_a_jit_trace_gives_logits_of_any_size(model):
    traced = torch.jit.trace(
        model, batch()[0]
    )  # raises unless a second trace, without gradients, is the same
    for sizes in ((2, 48, 64), (1, 33, 70)):
        x = batch(*sizes)[0]
        assert torch.equal(traced(x), model(x))
    model.zero_grad()
    traced(x).sum().backward()
    traced_gradient = model.backbone.stem.conv1.weight.grad.clone()
    model.zero_grad()
    model(x).sum().backward()
    torch.testing.assert_close(traced_gradient, model.backbone.stem.conv1.weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*jit.trace:DeprecationWarning")
def test_a_jit_trace_gives_label_maps_of_any_size(predictor):
    traced = torch.jit.trace(predictor, batch()[0])
    for sizes in ((2, 48, 64), (1, 33, 70)):
        x = batch(*sizes)[0]
        assert (traced(x) != predictor(x)).float().mean() < 1e-3  # classes closer than rounding


def test_the_result_does_not_depend_on_the_gradient(model):
    x = batch()[0]
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_symbolic_trace_gives_logits_and_loss(model, training):
    model.train(training)
    traced = torch.fx.symbolic_trace(model)
    for arguments in (batch()[:1], batch(), batch(1, 40, 56)):
        torch.manual_seed(2)
        expected = model(*arguments)
        torch.manual_seed(2)
        torch.testing.assert_close(traced(*arguments), expected)
    with pytest.raises(ValueError, match=r"images must be \(N, 3, H, W\)"):
        traced(torch.randn(2, 4, 32, 32))


def test_a_symbolic_trace_of_an_encoder():
    encoder = build(
        "mscan_t", features_only=True, **{key: TINY[key] for key in ("channels", "depths")}
    ).eval()
    x = batch()[0]
    torch.testing.assert_close(torch.fx.symbolic_trace(encoder)(x), encoder(x))


def test_functional_call_takes_other_parameters(model):
    x, targets = batch()
    doubled = {name: 2 * parameter.detach() for name, parameter in model.named_parameters()}
    loss = functional_call(model, doubled, (x, targets))
    gradients = grad(lambda parameters: functional_call(model, parameters, (x, targets)))(doubled)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    expected = model(x, targets)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_deterministic_algorithms_are_obeyed(model):
    model.train()
    x, targets = batch()
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            torch.manual_seed(3)
            model.zero_grad()
            model(x, targets).backward()
            runs.append([parameter.grad.clone() for parameter in model.parameters()])
        assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
        assert model.eval().predict(x).shape == (2, 48, 64)
    finally:
        torch.use_deterministic_algorithms(False)


SIZES = {
    "numpy": tuple(np.array([40, 24])),
    "array": np.array([40, 24], dtype=np.uint16),
    "tensors": (torch.tensor(40), torch.tensor(24)),
    "tensor": torch.tensor([40, 24]),
    "list": [40, 24],
    "size": torch.Size((40, 24)),
}


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_are_integers_of_any_kind(model, kind):
    x = batch()[0]
    assert torch.equal(model.predict(x, SIZES[kind]), model.predict(x, (40, 24)))


@pytest.mark.parametrize("size", [(40.0, 24.0), np.array([40.0, 24.0]), (40,), 40, "40", (0, 24)], ids=repr)
def test_other_sizes_are_refused_in_one_line(model, size):
    with pytest.raises((TypeError, ValueError), match=r"^upsample_argmax: size must be .*[^\n]*$"):
        model.predict(batch()[0], size)


def test_configurations_take_numbers_of_any_kind():
    given = build(
        "segnext_t",
        num_classes=np.int64(5),
        rank=torch.tensor(4),
        channels=np.array(TINY["channels"]),
        depths=[np.int32(1)] * 4,
        drop_path=np.float32(0.25),
        recompute=np.bool_(True),
        decoder_channels=np.int16(32),
    ).config
    plain = build("segnext_t", num_classes=5, drop_path=0.25, recompute=True, **TINY).config
    assert given == plain
    assert [type(value) for value in vars(given).values()] == [type(value) for value in vars(plain).values()]
    assert {type(width) for width in given.channels + given.depths} == {int}
    with pytest.raises(TypeError, match="num_classes must be int, got"):
        build("segnext_t", num_classes=np.float64(5))
