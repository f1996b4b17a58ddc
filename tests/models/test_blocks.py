"""Tests the parts of the models: initialisation, stochastic depth, FFN dropout, block arithmetic, Hamburger bases."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segnext.models import build
from segnext.models.ham import Hamburger
from segnext.models.layers import Pointwise
from segnext.models.msca import FFN, Attention, Block, StripConv


def constant_branches(block: Block, value: float) -> Block:
    """Make both branches of the block add ``layer_scale * value``, whatever the input."""
    for conv in (block.attention.proj_out, block.ffn.fc2):
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, value)
    for norm in (block.norm1, block.norm2):
        nn.init.zeros_(norm.weight)  # the attention's inner shortcut adds the norm's output
    return block


def test_convolutions_are_drawn_by_fan_out():
    torch.manual_seed(0)
    network = build("segnext_b")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and name != "decoder.classifier" and module.weight.numel() > 3000:
            fan_out = module.weight[0, 0].numel() * module.out_channels / module.groups
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
            assert module.bias is None or module.bias.abs().max() == 0, name
    assert network.decoder.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (network.backbone.stages[1][0].layer_scale1 == 1e-2).all()


def test_a_pointwise_convolution_takes_the_arguments_of_a_convolution():
    """PEFT makes the two parts of a LoRA adapter by the class of the layer that it adapts."""
    layer = Pointwise(8, 4, (1, 1), (2, 2), groups=2, bias=False)
    plain = nn.Conv2d(8, 4, (1, 1), (2, 2), groups=2, bias=False)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 8, 6, 5)
    assert torch.equal(layer(x), plain(x))


def test_normalisation_constants_are_the_official_ones():
    norms = [
        m for m in build("segnext_t").modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm))
    ]
    assert {norm.eps for norm in norms} == {1e-5}
    assert {norm.momentum for norm in norms if isinstance(norm, nn.BatchNorm2d)} == {0.1}
    assert {norm.num_groups for norm in norms if isinstance(norm, nn.GroupNorm)} == {32}
    assert len(norms) == 2 * 13 + 2 + 3 + 4 + 3


@pytest.mark.parametrize(("size", "rate", "blocks"), [("t", 0.1, 13), ("l", 0.3, 38)])
def test_drop_path_rises_linearly_over_all_blocks(size, rate, blocks):
    with torch.device("meta"):
        network = build(f"mscan_{size}")
    rates = [module.drop_path for module in network.modules() if isinstance(module, Block)]
    assert rates == pytest.approx(torch.linspace(0, rate, blocks).tolist())


def test_drop_path_skips_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    block = constant_branches(Block(8, 2, drop_path=0.25), 1.0).train()
    x = torch.zeros(4000, 8, 1, 1)
    added = (block(x) / 1e-2).flatten(1)
    assert torch.allclose(added, added[:, :1].expand_as(added)), "all channels of a sample share one draw"
    share = [((added[:, 0] - count / 0.75).abs() < 1e-4).float().mean().item() for count in (0, 1, 2)]
    assert share == pytest.approx([0.25**2, 2 * 0.25 * 0.75, 0.75**2], abs=0.03)
    assert added.mean().item() == pytest.approx(2.0, abs=0.05)
    torch.testing.assert_close(block.eval()(x), torch.full_like(x, 0.02))


VARIANTS = [
    {},
    {"strips": (7, 21)},
    {"strips": (), "root": 3},
    {"strips": (3, 9, 1, 5)},
    {"mix": False},
    {"gate": False},
    {"mix": False, "gate": False},
    {"kind": "lka"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_block_follows_the_papers_equations(variant):
    torch.manual_seed(0)
    block = Block(16, 3, attention=Attention(16, **variant)).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(2, 16, 9, 14, dtype=torch.float64)

    attention, ffn = block.attention, block.ffn
    z = block.norm1(x)
    u = F.gelu(attention.proj_in(z))
    strips = attention.strips
    a = strips.root(u)
    if variant.get("kind") == "lka":
        m = F.conv2d(a, strips.dilated.weight, strips.dilated.bias, padding=9, dilation=3, groups=16)
    else:
        m = a + sum(column(row(a)) for row, column in zip(strips.rows, strips.columns, strict=True))
    mixed = attention.mix(m) if variant.get("mix", True) else m
    product = mixed * u if variant.get("gate", True) else mixed
    y = x + block.layer_scale1.view(-1, 1, 1) * (attention.proj_out(product) + z)
    hidden = F.gelu(ffn.dwconv(ffn.fc1(block.norm2(y))))
    expected = y + block.layer_scale2.view(-1, 1, 1) * ffn.fc2(hidden)

    torch.testing.assert_close(block(x), expected)
    torch.testing.assert_close(attention.strips(u), m)


def test_strip_kernels_are_free():
    strips = StripConv(4, kernels=(3, 9))
    assert [tuple(conv.weight.shape[2:]) for conv in strips.rows] == [(1, 3), (1, 9)]
    assert [tuple(conv.weight.shape[2:]) for conv in strips.columns] == [(3, 1), (9, 1)]
    assert strips(torch.randn(1, 4, 2, 5)).shape == (1, 4, 2, 5)


def test_ffn_dropout_acts_in_training_only():
    torch.manual_seed(0)
    ffn = FFN(8, 32, dropout=0.5)
    x = torch.randn(64, 8, 6, 6)
    with torch.no_grad():
        exact = ffn.eval()(x)
        dropped = ffn.train()(x)
        assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
        mean = torch.stack([ffn(x) for _ in range(400)]).mean(0)
    assert (mean - exact).abs().mean() < 0.2 * exact.abs().mean()


def test_recompute_changes_no_gradient():
    torch.manual_seed(0)
    plain = FFN(8, 16).double()
    saving = FFN(8, 16, recompute=True).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    gradients = []
    for ffn in (plain, saving):
        ffn(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in ffn.parameters()])
    torch.testing.assert_close(*gradients)


def test_bases_are_seeded_normalised_and_saved():
    torch.manual_seed(1)
    first = Hamburger(64, 8)
    torch.manual_seed(2)
    second = Hamburger(64, 8)
    assert torch.equal(first.bases, second.bases)
    assert first.bases.shape == (1, 64, 8) and first.bases.min() >= 0
    torch.testing.assert_close(first.bases.norm(dim=1), torch.ones(1, 8))
    assert "bases" in first.state_dict() and "bases" not in dict(first.named_parameters())


def test_hamburger_init_does_not_consume_global_rng():
    torch.manual_seed(5)
    expected = Hamburger(64, 8).proj_in.weight
    torch.manual_seed(5)
    assert torch.equal(Hamburger(64, 32).proj_in.weight, expected)


def run_hamburger(random_eval_bases=False, training=False, seeds=(1, 2), bases_scale=1.0, **options):
    torch.manual_seed(0)
    burger = Hamburger(32, 4, random_eval_bases=random_eval_bases, **options).train(training)
    burger.bases *= bases_scale
    x = torch.randn(2, 32, 6, 5).relu()
    outputs = []
    for seed in seeds:
        torch.manual_seed(seed)
        with torch.no_grad():
            outputs.append(burger(x))
    return burger, x, outputs


def test_evaluation_uses_the_stored_bases_as_they_are():
    burger, x, (first, second) = run_hamburger(bases_scale=3.0)
    assert torch.equal(first, second)
    expected = decompose(F.relu(burger.proj_in(x)).flatten(2), burger.bases, steps=7)
    y = burger.norm(burger.proj_out(expected.unflatten(2, (6, 5))))
    torch.testing.assert_close(first, F.relu(x + y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [{"training": True}, {"random_eval_bases": True}], ids=str)
def test_random_bases_are_drawn_per_forward_pass(mode):
    _, _, (first, second, again) = run_hamburger(seeds=(1, 2, 1), **mode)
    assert not torch.allclose(first, second)
    assert torch.equal(first, again)


def test_training_draws_bases_for_each_image_and_takes_six_steps():
    burger, x, (output,) = run_hamburger(training=True, seeds=(9,))
    torch.manual_seed(9)
    bases = F.normalize(torch.rand(2, 32, 4), dim=1)
    expected = decompose(F.relu(burger.proj_in(x)).flatten(2), bases, steps=6)
    y = burger.norm(burger.proj_out(expected.unflatten(2, (6, 5))))
    torch.testing.assert_close(output, F.relu(x + y), rtol=1e-4, atol=1e-5)


def decompose(x, bases, steps):
    """Factorise as the Hamburger does; transcribed from docs/model.md, section 2.3."""
    x, bases = x.double(), bases.double()
    coef = torch.softmax(x.mT @ bases, dim=-1)
    for _ in range(steps):
        coef = coef * (x.mT @ bases) / (coef @ (bases.mT @ bases) + 1e-6)
        bases = bases * (x @ coef) / (bases @ (coef.mT @ coef) + 1e-6)
    coef = coef * (x.mT @ bases) / (coef @ (bases.mT @ bases) + 1e-6)
    return (bases @ coef.mT).float()
