"""Tests that a frozen part keeps its BatchNorm statistics in training mode, and that no other part does."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import update_bn

from segnext.models import build
from segnext.models.batch_norm import BatchNorm

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
TINY = {"channels": (16, 32, 32, 32), "depths": (1, 1, 1, 1), "decoder_channels": 32, "drop_path": 0.0}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build("segnext_t", num_classes=3, **TINY)
    for norm in model.modules():
        if isinstance(norm, BatchNorm):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return model


def step(model, call=None):
    x = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    (model if call is None else call)(x, torch.zeros(2, 48, 64, dtype=torch.uint8)).backward()
    return x


def statistics(model):
    return {
        key: value.clone() for key, value in model.state_dict().items() if "running" in key or "num_b" in key
    }


def moved(model, before):
    return {key for key, value in statistics(model).items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize("order", ["freeze-train", "train-freeze"])
def test_a_frozen_encoder_stays_as_it_is(model, order):
    model.eval()
    before, expected = statistics(model), model.backbone(torch.ones(1, 3, 40, 40))
    if order == "train-freeze":
        model.train()
    model.backbone.requires_grad_(False)
    model.train()
    step(model)
    assert not moved(model, before)
    for feature, wanted in zip(model.backbone(torch.ones(1, 3, 40, 40)), expected, strict=True):
        torch.testing.assert_close(feature, wanted)
    assert model.decoder.classifier.weight.grad.abs().max() > 0


def test_only_frozen_norms_keep_their_statistics(model):
    before = statistics(model)
    model.backbone.stem.requires_grad_(False)
    model.backbone.stages[1][0].norm1.weight.requires_grad_(False)  # its bias still learns
    step(model)
    kept = before.keys() - moved(model, before)
    assert kept == {key for key in before if key.startswith("backbone.stem.")}


def test_unfreezing_lets_them_move_again(model):
    model.backbone.requires_grad_(False)
    step(model)
    before = statistics(model)
    model.backbone.requires_grad_(True)
    step(model)
    assert moved(model, before) == before.keys()


def test_compiled_models_follow_the_freezing(model):
    before = statistics(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    step(model, compiled)
    assert moved(model, before) == before.keys()
    model.backbone.requires_grad_(False)
    if TORCH < (2, 12):  # does not notice (pytorch/pytorch#139476)
        torch.compiler.reset()
    before = statistics(model)
    step(model, compiled)
    assert not moved(model, before)


def test_new_statistics_can_be_asked_for(model):
    model.requires_grad_(False)
    before = statistics(model)
    update_bn([torch.randn(2, 3, 32, 32)], model)
    assert moved(model, before) == before.keys()


def test_a_functional_call_without_gradients_is_not_a_frozen_one(model):
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    before = {name: b.clone() for name, b in buffers.items()}
    functional_call(model, (parameters, buffers), (torch.randn(2, 3, 32, 32),))
    assert not torch.equal(
        buffers["backbone.stem.norm1.running_mean"], before["backbone.stem.norm1.running_mean"]
    )


def test_a_replica_without_gradients_is_not_a_frozen_one():
    """DataParallel makes replicas whose parameters are plain attributes; under no_grad none needs a gradient."""
    x = torch.randn(4, 3, 5, 5) + 2
    for enabled, frozen in ((True, True), (True, False), (False, True), (False, False)):
        layer = BatchNorm(3).requires_grad_(not frozen)
        replica = layer._replicate_for_data_parallel()
        with torch.set_grad_enabled(enabled):
            for name, parameter in layer.named_parameters():
                object.__setattr__(replica, name, parameter * 1 if enabled else parameter.detach())
            replica._parameters = {}
            replica(x)
        assert bool(replica.running_mean.any()) == (not (enabled and frozen))
