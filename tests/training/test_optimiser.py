"""AdamW's groups follow the official names, and the learning rate its schedule."""

import math
import re

import pytest
import torch

from segnext.models import build
from segnext.training.optimiser import learning_rate_factor, parameter_groups, set_learning_rate

# docs/model.md, section 5.2, in our names: the official `norm` is these, and not the stem's norms or group norms.
NO_DECAY = re.compile(r"backbone\.(stages\.\d\.\d+\.norm[12]|downsamples\.\d\.norm|norms\.\d)\.(weight|bias)")


@pytest.fixture(scope="module")
def model():
    return build("segnext_t", num_classes=11)


def test_groups_follow_the_official_names(model):
    groups = parameter_groups(model, 6e-5, 0.01, head_lr_multiplier=10)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    expected = {
        name: (6e-4 if name.startswith("decoder.") else 6e-5, 0.0 if NO_DECAY.fullmatch(name) else 0.01)
        for name, _ in model.named_parameters()
    }
    assert {name: pytest.approx(found[id(p)]) for name, p in model.named_parameters()} == expected
    assert sum(len(group["params"]) for group in groups) == len(expected)  # none is there twice
    # T: 13 blocks and 3 patch embeddings with BN, 4 stage ends with LN; a weight and a bias each.
    assert sum(decay == 0 for _, decay in found.values()) == 2 * (2 * 13 + 3 + 4)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.stem.norm1.weight",
        "backbone.stem.norm2.bias",
        "backbone.stages.0.0.layer_scale1",
        "backbone.stages.0.0.attention.proj_in.bias",
        "decoder.squeeze.norm.weight",
        "decoder.hamburger.norm.bias",
        "decoder.classifier.bias",
    ],
)
def test_what_decays_although_others_would_not(model, name):
    wanted = dict(model.named_parameters())[name]
    group = next(g for g in parameter_groups(model, 1, 0.3) if any(p is wanted for p in g["params"]))
    assert group["weight_decay"] == 0.3


def test_one_learning_rate_by_default_and_frozen_parameters_left_out():
    network = build("segnext_t", num_classes=2)
    network.backbone.requires_grad_(False)
    groups = parameter_groups(network, 1e-3, 0.01)
    assert {group["lr"] for group in groups} == {1e-3}
    assert sum(len(group["params"]) for group in groups) == len(list(network.decoder.parameters()))


def test_the_classifier_of_mscan_is_a_head():
    network = build("mscan_t", num_classes=7)
    groups = parameter_groups(network, 1.0, 0.1, head_lr_multiplier=10)
    fast = {id(p) for group in groups if group["lr"] == 10 for p in group["params"]}
    assert fast == {id(network.head.weight), id(network.head.bias)}


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1e-6),
        (750, (1 - 750 / 160000) * (0.5 + 0.5e-6)),
        (1499, (1 - 1499 / 160000) * (1e-6 + (1 - 1e-6) * 1499 / 1500)),
        (1500, 1 - 1500 / 160000),
        (80000, 0.5),
        (159999, 1 / 160000),
    ],
)
def test_the_official_course(step, factor):
    assert learning_rate_factor(step, 160000, 1500) == pytest.approx(factor, rel=1e-9)


def test_cosine_is_above_linear_first_and_below_it_later():
    cosine = [learning_rate_factor(step, 100, 0, "cosine") for step in range(100)]
    assert cosine[0] == 1 and cosine[50] == pytest.approx(0.5)
    assert cosine[25] == pytest.approx(0.5 + math.sqrt(0.125)) and cosine[75] == pytest.approx(1 - cosine[25])
    assert all(early > late for early, late in zip(cosine, cosine[1:], strict=False))


def test_every_group_keeps_its_own_peak():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [w], "lr": lr, "base_lr": lr} for w, lr in zip(weights, (1.0, 10.0), strict=True)]
    optimiser = torch.optim.AdamW(groups)
    for factor in (0.5, 0.25):
        set_learning_rate(optimiser.param_groups, factor)
        assert [group["lr"] for group in optimiser.param_groups] == [factor, 10 * factor]
