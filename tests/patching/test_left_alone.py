"""Tests what is left alone, that the reason is said in one line, and what is refused as a whole."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import segnext as package
from oracle import foreign_models
from segnext.patching.patch import patch
from segnext.patching.swap import is_patched
from tests.patching.conftest import visible

UNIT, MLP, HAM = (
    "backbone.block1.0.attn.spatial_gating_unit",
    "backbone.block1.0.mlp",
    "decode_head.hamburger",
)
IN_A_BLOCK = {
    "attn.spatial_gating_unit": ("conv0", "conv1_2", "conv3"),
    "mlp": ("fc1", "dwconv.dwconv", "fc2"),
}


class Adapter(nn.Module):
    """A low-rank adapter around a convolution, as PEFT makes it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Conv2d(base.in_channels, 2, 1)
        self.up = nn.Conv2d(2, base.out_channels, 1)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


class Rounded(nn.Conv2d):
    """A convolution with rounded weights, as quantisation makes it."""

    def forward(self, x):
        weight = (self.weight * 16).round() / 16
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def in_place(make):
    def change(module, name):
        parent, _, last = name.rpartition(".")
        child = module.get_submodule(name)
        setattr(module.get_submodule(parent), last, make(child))

    return change


def rounded(conv):
    other = Rounded(
        conv.in_channels, conv.out_channels, conv.kernel_size, 1, conv.padding, groups=conv.groups
    )
    other.load_state_dict(conv.state_dict())
    return other


def attribute(name, value):
    return lambda module, path: setattr(module.get_submodule(path), name, value)


CHANGES = {
    "hook": (lambda m, p: m.get_submodule(p).register_forward_hook(lambda *call: None), "has hooks or a replaced"),
    "forward": (lambda m, p: attribute("forward", m.get_submodule(p).forward)(m, p), "has hooks or a replaced"),
    "prune": (lambda m, p: prune.l1_unstructured(m.get_submodule(p), "weight", 0.5), "has hooks or a replaced"),
    "weight norm": (
        lambda m, p: parametrizations.weight_norm(m.get_submodule(p)),
        "ParametrizedConv2d instead of a plain Conv2d",
    ),
    "adapter": (in_place(Adapter), "Adapter instead of a plain Conv2d"),
    "quantised": (in_place(rounded), "Rounded instead of a plain Conv2d"),
    "padding mode": (attribute("padding_mode", "reflect"), "pads with reflect instead of zeros"),
}  # fmt: skip
CASES = [
    (part, layer, change) for part, layers in IN_A_BLOCK.items() for layer in layers for change in CHANGES
]


@pytest.fixture
def blocks():
    """Two blocks, of which one is changed."""
    torch.manual_seed(0)
    pair = (foreign_models.Block(16, 2, foreign_models.StripUnit, 0.0, 0.0) for _ in range(2))
    return visible(nn.Sequential(*pair))


@pytest.fixture
def features():
    return torch.randn(2, 16, 9, 8, generator=torch.Generator().manual_seed(1))


def result(model, images):
    torch.manual_seed(0)
    with torch.no_grad():
        return model(images)


def same(model, plain, images):
    """Whether both give the same; random weights make a small difference large, so that zero is not the point."""
    a, b = result(model, images), result(plain, images)
    return ((a - b).abs().max() / b.abs().max()).item() < 1e-4


def reasons(report):
    return {part.path: part.reason for part in report.left}


@pytest.mark.parametrize("part,layer,change", CASES)
def test_a_layer_that_has_to_be_called(blocks, features, part, layer, change):
    make, message = CHANGES[change]
    make(blocks, f"0.{part}.{layer}")
    report = patch(blocks, verify=features)
    reason = reasons(report)[f"0.{part}"]
    assert message in reason and layer in reason and "\n" not in reason
    assert not is_patched(blocks.get_submodule(f"0.{part}"))
    assert is_patched(blocks.get_submodule(f"1.{part}"))


@pytest.mark.parametrize("part,layer,change", CASES)
def test_a_layer_that_is_changed_later_is_called(blocks, features, part, layer, change):
    plain = copy.deepcopy(blocks)
    assert not patch(blocks).left
    for model in (blocks, plain):
        torch.manual_seed(7)
        CHANGES[change][0](model, f"0.{part}.{layer}")
    assert same(blocks, plain, features)


@pytest.mark.parametrize(
    "path", [f"{MLP}.act", f"{MLP}.drop", f"{MLP}.dwconv", f"{HAM}.ham_out", f"{HAM}.ham_in"]
)
def test_hooks_of_parts_that_are_not_called(segnext, images, path):
    early, late = segnext, copy.deepcopy(segnext)
    seen = []
    early.get_submodule(path).register_forward_hook(lambda *call: seen.append("early"))
    patch(late)
    late.get_submodule(path).register_forward_hook(lambda *call: seen.append("late"))
    assert path.rpartition(".")[0] in reasons(patch(early))
    assert not seen
    result(early, images), result(late, images)
    assert sorted(set(seen)) == ["early", "late"]


def test_stochastic_depth_with_a_hook_sees_features(images):
    model = visible(foreign_models.segnext("tiny", drop_path=0.5))
    patch(model)
    shapes = []
    drop = model.backbone.block4[0].drop_path
    drop.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(inputs[0].shape)))
    result(model, images)
    assert shapes == [(2, 64, 2, 3)] * 2


def test_numbers_that_change_later_are_read(segnext, images):
    plain = copy.deepcopy(segnext)
    patch(segnext)
    for model in (segnext, plain):
        model.decode_head.hamburger.ham.eval_steps = 2
        model.decode_head.hamburger.ham.R = 5
    assert same(segnext, plain, images)


def test_another_temperature_is_the_modules_own(segnext, images):
    plain = copy.deepcopy(segnext)
    patch(segnext)
    for model in (segnext, plain):
        model.decode_head.hamburger.ham.inv_t = 3
    assert same(segnext, plain, images)
    model = foreign_models.segnext("tiny")
    model.decode_head.hamburger.ham.inv_t = 100
    assert reasons(patch(model))[f"{HAM}.ham"] == "its coefficients begin with a softmax of inv_t=100"


GEOMETRIES = {
    "even": (nn.Conv2d(16, 16, 4, padding=2, groups=16), "conv0 has an even kernel (4, 4)"),
    "no padding": (nn.Conv2d(16, 16, 5, groups=16), "conv0 has padding (0, 0) instead of (2, 2)"),
    "stride": (nn.Conv2d(16, 16, 5, 2, 2, groups=16), "conv0 has stride (2, 2)"),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_geometry_that_the_ops_do_not_have(segnext, name):
    conv, reason = GEOMETRIES[name]
    segnext.get_submodule(UNIT).conv0 = conv
    assert reasons(patch(segnext))[UNIT] == reason


def test_a_convolution_without_bias(segnext, images):
    mlp = segnext.get_submodule(MLP)
    mlp.fc1 = nn.Conv2d(16, 128, 1, bias=False)
    assert reasons(patch(segnext, verify=images)) == {MLP: "fc1 has no bias"}


def test_an_approximated_gelu(segnext):
    segnext.get_submodule(MLP).act = nn.GELU(approximate="tanh")
    assert reasons(patch(segnext)) == {MLP: "its GELU is approximated by tanh"}


def test_padding_by_name_and_other_strips_are_taken(images):
    torch.manual_seed(0)
    model = visible(foreign_models.segnext("tiny"))
    unit = model.get_submodule(UNIT)
    unit.conv0 = nn.Conv2d(16, 16, 7, padding="same", groups=16)
    unit.conv1_1 = nn.Conv2d(16, 16, (1, 3), padding="same", groups=16)
    report = patch(model, verify=images)
    assert not report.left and is_patched(unit)


class Sum(foreign_models.StripUnit):
    """The same layers; the input is added, not multiplied."""

    def forward(self, x):
        return super().forward(x) / x + x


class Forgotten(foreign_models.StripUnit):
    """The same layers; one strip is not used."""

    def forward(self, x):
        root = self.conv0(x)
        return self.conv3(root + self.conv0_2(self.conv0_1(root)) + self.conv1_2(self.conv1_1(root))) * x


class Gated(foreign_models.LargeKernelUnit):
    """The same layers; the product is with a sigmoid."""

    def forward(self, x):
        return x * self.conv1(self.conv_spatial(self.conv0(x))).sigmoid()


class Swapped(foreign_models.LargeKernelUnit):
    """The same layers in another order."""

    def forward(self, x):
        return x * self.conv1(self.conv0(self.conv_spatial(x)))


class Normalised(foreign_models.NMF2D):
    """A factorisation whose bases are normalised at the end."""

    def compute_coef(self, x, bases, coef):
        return super().compute_coef(x, bases, coef / coef.sum(-1, keepdim=True))


class Detached(foreign_models.Mlp):
    """The same values; a gradient is missing."""

    def forward(self, x):
        return super().forward(x.detach())


class OnlyInTraining(foreign_models.Mlp):
    """Another function in training."""

    def forward(self, x):
        return super().forward(x) * (2 if self.training else 1)


@pytest.mark.parametrize(
    "unit", [Sum(16), Forgotten(16), Gated(16), Swapped(16), Normalised(R=3), Detached(16, 32), OnlyInTraining(16, 32)],
    ids=lambda unit: type(unit).__name__,
)  # fmt: skip
def test_the_same_structure_with_another_function_is_found_out(unit):
    report = patch(unit)
    assert [part.reason for part in report.left][0].startswith("it computes something else: as ")
    assert not is_patched(unit) and not report.patched


def test_one_layer_used_for_two(segnext, images):
    unit = segnext.get_submodule(UNIT)
    unit.conv1_1 = unit.conv0_1  # shared, so that the module has a convolution less
    patch(segnext, verify=images)
    assert not is_patched(unit)


def test_nothing_to_patch(caplog):
    report = patch(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()))
    assert report.parts == () and str(report).startswith(
        "nothing to patch: no module has the structure of MSCA"
    )
    assert "nothing to patch" in caplog.text


def test_our_own_models_have_the_kernels_already():
    model = package.create_model("segnext_t", num_classes=3)
    assert "segnext's own models use the kernels already" in str(patch(model))


@pytest.mark.parametrize(
    "make,error,message",
    [
        (lambda m: "model.pth", TypeError, r"patch: model must be an nn.Module, got str"),
        (
            torch.compile,
            TypeError,
            r"patch: the model must not be compiled; patch the module, then torch.compile it",
        ),
        (lambda m: nn.Sequential(torch.compile(m)), TypeError, r"patch: 0 must not be compiled"),
        (
            lambda m: torch.jit.trace(m.backbone.block1[0].mlp, torch.rand(1, 16, 4, 4)),
            TypeError,
            r"patch: the model must not be scripted, got TopLevelTracedModule; patch, then torch.jit.trace",
        ),
        (
            lambda m: m.to("meta"),
            ValueError,
            r"patch: model must have values, got tensors on the meta device",
        ),
    ],
    ids=["no module", "compiled", "compiled part", "traced", "meta"],
)
def test_what_is_refused(segnext, make, error, message):
    with pytest.raises(error, match=message):
        patch(make(segnext))
    assert not any(is_patched(module) for module in segnext.modules())
