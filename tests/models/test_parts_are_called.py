"""Tests that encoder and decoder are called as modules, and that methods and modules put in their places count."""

import pytest
import torch
from torch import nn

from segnext import deploy
from segnext.models import build
from segnext.models.changed import first_changed_child

TINY = {"channels": (16, 32, 32, 32), "depths": (2, 1, 1, 1), "decoder_channels": 32, "rank": 4}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build("segnext_t", num_classes=3, **TINY).eval()
    for block in (block for stage in model.backbone.stages for block in stage):  # so that branches show
        nn.init.ones_(block.layer_scale1)
        nn.init.ones_(block.layer_scale2)
    return model


def images():
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))


class Wrapper(nn.Module):
    """Calls a module and shows none of its attributes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs):
        return self.inner(*inputs)


@pytest.mark.parametrize("name", ["backbone", "decoder"])
def test_hooks_of_encoder_and_decoder_are_called(model, name):
    seen = []
    model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append("before"))
    model.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append("after"))
    model.predict(images())
    assert seen == ["before", "after"]


@pytest.mark.parametrize("name", ["backbone", "decoder"])
def test_encoder_and_decoder_may_be_wrapped(model, name):
    before = model(images())
    setattr(model, name, Wrapper(model.get_submodule(name)))
    assert torch.equal(model(images()), before)
    assert first_changed_child(model).startswith(f"{name} (Wrapper instead of")


@pytest.mark.parametrize("options", [{}, {"features_only": True, "out_indices": (1, 2, 3)}], ids=str)
def test_an_encoder_that_gives_something_else_is_refused(model, options):
    model.backbone = build("mscan_t", channels=TINY["channels"], depths=TINY["depths"], **options)
    with pytest.raises(ValueError, match="segnext_t: backbone must return the features of 4 stages, got "):
        model(images())


CONVOLUTIONS = [
    f"backbone.stages.1.0.{name}"
    for name in ("attention.strips.root", "attention.strips.rows.1", "attention.mix", "ffn.fc1", "ffn.dwconv")
] + ["backbone.stem.conv2", "decoder.classifier"]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_whose_inner_method_was_replaced(model, name):
    before, layer = model(images()), model.get_submodule(name)
    plain = layer._conv_forward
    layer._conv_forward = lambda x, weight, bias: plain(x, weight, bias).flip(1)
    assert not torch.allclose(model(images()), before, rtol=1e-3, atol=1e-4)
    assert first_changed_child(model) == f"{name} (its _conv_forward was replaced)"


@pytest.mark.parametrize("name", ["forward_logits", "backbone.forward_features", "backbone.stages.0.0._add"])
def test_a_replaced_method_is_named(model, name):
    module, _, method = name.rpartition(".")
    part = model.get_submodule(module)
    part.train = part.train  # as where a frozen part is kept in evaluation mode
    assert first_changed_child(model) is None
    setattr(part, method, getattr(part, method))
    assert first_changed_child(model) == f"{module or 'SegNeXt'} (its {method} was replaced)"


def test_one_module_in_two_places(model):
    first, second = model.backbone.stages[0]
    second.ffn = first.ffn
    assert first_changed_child(model) is None
    torch.testing.assert_close(deploy(model)(images()), model(images()), rtol=1e-4, atol=1e-4)
    first.attention.proj_in = first.ffn.fc2
    assert first_changed_child(model).startswith("backbone.stages.0.0.attention.proj_in (weight is ")


@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_a_group_norm_without_weight_or_bias(model, missing):
    before = model(images())
    setattr(model.decoder.align.norm, missing, None)
    torch.testing.assert_close(model(images()), before)
    assert first_changed_child(model) == f"decoder.align.norm ({missing} is None instead of (32,))"
