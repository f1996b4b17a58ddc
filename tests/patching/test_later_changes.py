"""Tests patched modules whose parts, arguments or ways to be copied are not those of the check."""

import copy
import pickle

import pytest
import torch
from torch import nn

from oracle import foreign_models as foreign
from segnext.patching.patch import patch, unpatch
from segnext.patching.swap import is_patched
from tests.patching.conftest import visible


@pytest.fixture
def pair():
    """A block, and the same patched."""
    torch.manual_seed(0)
    plain = visible(foreign.Block(16, 2, foreign.StripUnit, 0.0, 0.3))
    block = copy.deepcopy(plain)
    assert len(patch(block).patched) == 4
    return plain, block


@pytest.fixture
def features():
    return torch.randn(2, 16, 9, 8, generator=torch.Generator().manual_seed(1))


def same(pair, features, training=False):
    results = []
    for module in pair:
        torch.manual_seed(2)
        results.append(module.train(training)(features))
    plain, patched = results
    return ((plain - patched).abs().max() / plain.abs().max()).item() < 1e-5


class Scaled(nn.Module):
    """Wraps a depthwise convolution, whose attributes it shows."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def forward(self, x):
        return 2 * self.inner(x)


class Noise(nn.Module):
    """Drops nothing; moves everything."""

    def forward(self, x):
        return x + 1


CHANGES = {
    "approximated GELU": lambda block: setattr(block.mlp.act, "approximate", "tanh"),
    "another activation": lambda block: setattr(block.mlp, "act", nn.SiLU()),
    "no dropout": lambda block: setattr(block.mlp, "drop", nn.Identity()),
    "another dropout": lambda block: setattr(block.mlp, "drop", Noise()),
    "wrapper": lambda block: setattr(block.mlp, "dwconv", Scaled(block.mlp.dwconv)),
    "no stochastic depth": lambda block: setattr(block, "drop_path", nn.Identity()),
    "another stochastic depth": lambda block: setattr(block, "drop_path", Noise()),
    "another norm": lambda block: setattr(block, "norm1", nn.GroupNorm(4, 16)),
    "another unit": lambda block: setattr(block.attn, "spatial_gating_unit", Noise()),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", CHANGES)
def test_parts_that_are_replaced(pair, features, name, training):
    assert same(pair, features)
    for module in pair:
        CHANGES[name](module)
    assert same(pair, features, training)


def test_hooks_of_identities_are_called():
    mlp = foreign.Mlp(8, 16)
    mlp.drop = nn.Identity()
    early, late, seen = copy.deepcopy(mlp), mlp, []
    early.drop.register_forward_hook(lambda *call: seen.append("early"))
    assert [part.reason for part in patch(early).left] == ["drop has hooks or a replaced forward"]
    patch(late)
    late.drop.register_forward_hook(lambda *call: seen.append("late"))
    early(torch.rand(1, 8, 4, 4)), late(torch.rand(1, 8, 4, 4))
    assert sorted(set(seen)) == ["early", "late"]


class WithOptions(foreign.Mlp):
    """A forward with an argument that may be left out."""

    def forward(self, x, scale=1.0):
        return super().forward(x) * scale


def test_further_arguments():
    mlp, x = WithOptions(8, 16), torch.randn(2, 8, 5, 4)
    expected = mlp(x, 3.0)
    assert patch(mlp).patched
    torch.testing.assert_close(mlp(x, 3.0), expected)
    torch.testing.assert_close(mlp(x, scale=3.0), expected)


class Flagged(foreign.Mlp):
    """Its forward has a flag."""

    def __init__(self):
        super().__init__(8, 16)
        self.linear = False
        self._noted = False

    def forward(self, x):
        return super().forward(x.relu() if self.linear else x)


def test_a_flag_that_is_changed_later(caplog):
    plain, x = Flagged(), torch.randn(2, 8, 5, 4)
    module = copy.deepcopy(plain)
    assert patch(module).patched
    module.linear, module._noted, module.more = False, True, 3
    assert is_patched(module)
    plain.linear = module.linear = True
    torch.testing.assert_close(module(x), plain(x))
    assert type(module) is Flagged and unpatch(module) == 0
    assert "patch: a Flagged computes by itself again, since its linear became True" in caplog.text


def test_the_momentum_of_a_norm_may_change():
    norm = nn.BatchNorm2d(4)
    patch(nn.ModuleList([norm, foreign.Mlp(8, 16)]))
    norm.momentum = 0.5
    norm(torch.ones(2, 4, 3, 3))
    assert is_patched(norm) and norm.running_mean[0] == 0.5


def test_an_image_without_a_batch(pair, features):
    plain, patched = (module.mlp for module in pair)
    torch.testing.assert_close(patched(features[0]), plain(features[0]))


def test_traced_by_fx(pair, features):
    plain, patched = pair
    graph = torch.fx.symbolic_trace(patched)
    torch.testing.assert_close(graph(features), plain(features))


class Reduced(foreign.Mlp):
    """Says itself how it is copied and pickled."""

    def __reduce__(self):
        return Reduced, (8, 16), self.__dict__


class Built(foreign.Mlp):
    """Is copied by its constructor."""

    def __deepcopy__(self, memo):
        other = type(self)(8, 16)
        other.load_state_dict(self.state_dict())
        return other


@pytest.mark.parametrize("kind", [Reduced, Built])
@pytest.mark.parametrize("way", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_modules_with_ways_of_their_own_to_be_copied(kind, way):
    module, x = kind(8, 16), torch.randn(2, 8, 5, 4)
    assert patch(module).patched
    other = way(module)
    torch.testing.assert_close(other(x), module(x))
    assert len(patch(other).patched) == 1 and is_patched(other)
    assert unpatch(other) == 1 and type(other) is kind
    assert type(copy.copy(other)) is kind


class Final(foreign.Mlp):
    """Takes no subclasses."""

    def __init_subclass__(cls, **words):
        raise TypeError("Final has no subclasses")


def test_a_class_without_subclasses():
    module = Final(8, 16)
    assert [part.reason for part in patch(module).left] == [
        "its class takes no subclass: Final has no subclasses"
    ]
    assert type(module) is Final


def test_lazy_modules_are_refused():
    with pytest.raises(
        ValueError, match=r"patch: 1 must have its parameters, got a lazy module; run the model"
    ):
        patch(nn.Sequential(foreign.Mlp(8, 16), nn.LazyBatchNorm2d()))


class Viewed(nn.Module):
    """Views features as vectors, which channels_last does not allow."""

    def __init__(self):
        super().__init__()
        self.block = foreign.Block(8, 2, foreign.StripUnit, 0.0, 0.0)

    def forward(self, x):
        return self.block(x).view(2, -1)


def test_verify_of_a_model_that_needs_contiguous_features():
    model = Viewed()
    message = r"must run when it is patched, got RuntimeError: [^\n]+; it was left as it was; use reshape or flatten"
    with pytest.raises(ValueError, match=message):
        patch(model, verify=torch.randn(2, 8, 5, 4))
    assert not any(map(is_patched, model.modules()))


class Masks(nn.Module):
    """Returns classes, or an object, in evaluation."""

    def __init__(self, wrap=None):
        super().__init__()
        self.mlp, self.wrap = foreign.Mlp(8, 16), wrap

    def forward(self, x):
        y = self.mlp(x)
        if self.training:
            return y
        return y.argmax(1) if self.wrap is None else self.wrap(y)


def test_verify_of_masks_and_of_objects():
    x = torch.randn(2, 8, 5, 4)
    assert patch(Masks(), verify=x).agreements[0].output < 1e-3
    model = Masks(lambda y: object())
    with pytest.raises(
        ValueError, match=r"patch: the model must return tensors for verify, got none in evaluation"
    ):
        patch(model, verify=x)
    assert not is_patched(model.mlp)
