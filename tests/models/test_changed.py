"""Tests that layers which were hooked, wrapped or replaced are called and named, and that no others are."""

import copy
import pickle
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from segnext.models import build
from segnext.models.changed import first_changed_child, has_global_hooks, is_observed

TINY = {"channels": (16, 32, 32, 32), "depths": (1, 1, 1, 1), "decoder_channels": 32, "rank": 4}
FUSED = {"msca_conv", "gated_pointwise", "conv_ffn", "group_norm_act"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build("segnext_t", num_classes=3, **TINY).eval()
    for block in (stage[0] for stage in model.backbone.stages):  # so that branches have visible effects
        nn.init.ones_(block.layer_scale1)
        nn.init.ones_(block.layer_scale2)
    return model


def images(size=2):
    return torch.randn(size, 3, 48, 64, generator=torch.Generator().manual_seed(1))


class Adapter(nn.Module):
    """Adds to a layer, as LoRA does, and shows the layer's weight and bias as its own."""

    def __init__(self, base):
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, base.bias
        self.up = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x):
        return self.base(x) + self.up * self.base(x).flip(1)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Ops(TorchDispatchMode):
    """Records the names of the library's ops."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, _, name = func.name().partition("::")
        if namespace == "segnext_kernels":
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def calling_every_layer():
    handle = register_module_forward_hook(lambda module, inputs, output: None)
    try:
        yield
    finally:
        handle.remove()


LAYERS = [
    f"backbone.stages.1.0.{name}"
    for name in ("attention.strips.root", "attention.strips.rows.1", "attention.strips.columns.2")
    + ("attention.mix", "attention.proj_in", "attention.proj_out", "ffn.fc1", "ffn.dwconv", "ffn.fc2")
] + ["decoder.squeeze.norm", "decoder.hamburger.norm", "decoder.align.norm", "decoder.hamburger.proj_in"]


def adapt(model, name):
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, Adapter(model.get_submodule(name)))


def hook(model, name):
    model.get_submodule(name).register_forward_hook(lambda module, inputs, output: output.flip(1))


def pre_hook(model, name):
    model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(1),))


def parametrise(model, name):
    parametrize.register_parametrization(model.get_submodule(name), "weight", Doubled())


def override(model, name):
    layer = model.get_submodule(name)
    plain = layer.forward
    layer.forward = lambda x: plain(x).flip(1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("change", [adapt, hook, pre_hook, parametrise, override])
def test_a_changed_layer_has_its_effect_and_is_named(model, change, name):
    before = model(images())
    change(model, name)
    after = model(images())
    with calling_every_layer():
        expected = model(images())
    assert not torch.allclose(after, before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
    assert first_changed_child(model).startswith(f"{name} (")


GEOMETRIES = {
    "dwconv-5x5": ("ffn.dwconv", lambda c: nn.Conv2d(c, c, 5, padding=2, groups=c)),
    "dwconv-dilated": ("ffn.dwconv", lambda c: nn.Conv2d(c, c, 3, padding=2, dilation=2, groups=c)),
    "dwconv-circular": (
        "ffn.dwconv",
        lambda c: nn.Conv2d(c, c, 3, padding=1, groups=c, padding_mode="circular"),
    ),
    "dwconv-dense": ("ffn.dwconv", lambda c: nn.Conv2d(c, c, 3, padding=1)),
    "dwconv-no-bias": ("ffn.dwconv", lambda c: nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False)),
    "root-nothing": ("attention.strips.root", lambda c: nn.Identity()),
    "row-longer": (
        "attention.strips.rows.0",
        lambda c: nn.Conv2d(c, c, (1, 9), padding=(0, 4), groups=c),
    ),
    "mix-grouped": ("attention.mix", lambda c: nn.Conv2d(c, c, 1, groups=4)),
}


@pytest.mark.parametrize("case", GEOMETRIES)
def test_another_layer_in_a_place_computes_its_own_result(model, case):
    name, make = GEOMETRIES[case]
    block = model.backbone.stages[1][0]
    parent, _, child = name.rpartition(".")
    setattr(block.get_submodule(parent), child, make(block.get_submodule(name).out_channels))
    after = model(images())
    with calling_every_layer():
        torch.testing.assert_close(after, model(images()), rtol=1e-4, atol=1e-5)
    assert first_changed_child(model).startswith(f"backbone.stages.1.0.{name} (")


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("backbone.stages.1.0.ffn.dwconv", "padding_mode", "reflect"),
        ("backbone.stages.1.0.attention.proj_out", "groups", 2),
        ("decoder.align.norm", "eps", 1.0),
        ("backbone.norms.1", "eps", 1.0),
        ("decoder.hamburger", "random_eval_bases", True),
    ],
)
def test_a_changed_attribute_is_named(model, name, attribute, value):
    setattr(model.get_submodule(name), attribute, value)
    assert first_changed_child(model).startswith(f"{name} ({attribute} is {value} instead of ")


def test_a_replaced_part_is_named(model):
    model.backbone.stages[0].append(nn.Identity())
    assert first_changed_child(model) == "backbone.stages.0.1 (Identity, added)"
    del model.backbone.stages[0][0], model.backbone.stages[0][0]
    assert first_changed_child(model) == "backbone.stages.0.0 (missing)"


def test_a_changed_pointwise_convolution_computes_with_its_stride(model):
    conv = model.decoder.classifier
    conv.stride = (2, 2)
    x = images()[:, :1].expand(-1, 32, -1, -1)
    assert conv(x).shape == (2, 3, 24, 32)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_hooks_see_every_layer_and_change_nothing(model, training):
    model.train(training)
    kinds = (nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)
    silent = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    torch.manual_seed(3)
    expected = model(images(), torch.ones(2, 48, 64, dtype=torch.uint8))
    for name, module in model.named_modules():
        module.register_full_backward_hook(lambda *_: None)
        module.register_forward_hook(lambda *_, name=name: silent.discard(name))
    torch.manual_seed(3)
    torch.testing.assert_close(model(images(), torch.ones(2, 48, 64, dtype=torch.uint8)), expected)
    assert not silent


def test_global_hooks_see_every_layer(model):
    seen = set()
    handle = register_module_forward_hook(lambda module, inputs, output: seen.add(module))
    assert has_global_hooks() and is_observed(model.decoder.classifier)
    model(images())
    handle.remove()
    assert not has_global_hooks() and not is_observed(model.decoder.classifier)
    assert not [
        name for name, module in model.named_modules() if not (list(module.children()) or module in seen)
    ]


def test_an_unchanged_model_runs_fused_ops(model):
    with torch.no_grad(), Ops() as ops:
        model(images())
    assert ops.seen >= FUSED
    # PyTorch's counter has hooks for all modules too, but counts what runs without it.
    with torch.no_grad(), FlopCounterMode(display=False), Ops() as ops:
        model(images())
    assert ops.seen >= FUSED


def test_one_changed_layer_leaves_the_other_blocks_fused(model):
    counter = FlopCounterMode(display=False)
    hook(model, "backbone.stages.0.0.ffn.dwconv")
    with torch.no_grad(), counter:
        model(images())
    counts = counter.get_flop_counts()
    assert any("conv_ffn" in str(op) for op in counts["SegNeXt.backbone.stages.1"])
    assert not any("conv_ffn" in str(op) for op in counts["SegNeXt.backbone.stages.0"])


def test_an_adapter_trains(model):
    adapt(model, "backbone.stages.0.0.ffn.fc1")
    model(images(), torch.zeros(2, 48, 64, dtype=torch.uint8)).backward()
    assert model.backbone.stages[0][0].ffn.fc1.up.grad.abs() > 0


def test_a_pruned_model_trains_and_keeps_its_zeros(model):
    layer = model.backbone.stages[0][0].ffn.dwconv
    prune.l1_unstructured(layer, "weight", 0.5)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(images(), torch.zeros(2, 48, 64, dtype=torch.uint8)).backward()
        optimiser.step()
    model(images())
    assert (layer.weight == 0).float().mean() == 0.5
    prune.remove(layer, "weight")
    assert first_changed_child(model) is None


def test_values_dropout_and_momentum_are_no_change(model):
    model.decoder.dropout.p = 0.5
    model.backbone.stages[0][0].norm1.momentum = 0.01
    model.backbone.stages[0][0].norm1.eps = 1e-3
    model.load_state_dict({name: tensor * 2 for name, tensor in model.state_dict().items()})
    model.backbone.stem.register_full_backward_hook(lambda *_: None)
    model.double().to(memory_format=torch.channels_last)
    assert first_changed_child(model) is None


def test_copies_and_synchronised_norms_are_no_change(model):
    assert first_changed_child(copy.deepcopy(model)) is None
    assert first_changed_child(pickle.loads(pickle.dumps(model))) is None
    assert first_changed_child(nn.SyncBatchNorm.convert_sync_batchnorm(model)) is None


def test_a_subclass_that_adds_a_method_is_no_change(model):
    class WithExtra(type(model)):
        def extra(self):
            return 0

    class Calibrated(type(model)):
        def forward_logits(self, images):
            return 2 * super().forward_logits(images)

    assert first_changed_child(WithExtra(model.config)) is None
    assert first_changed_child(Calibrated(model.config)) == "Calibrated (its forward_logits was replaced)"
