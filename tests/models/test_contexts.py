"""Tests each module for global context against a plain transcription of its paper, and for what all of them promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.contexts.aspp import ASPP, DILATIONS
from segnext.models.contexts.attention import StripAttention
from segnext.models.contexts.concepts import ConceptDecomposition, concept_decomposition
from segnext.models.contexts.context import Context
from segnext.models.contexts.criss_cross import CrissCross, criss_cross
from segnext.models.contexts.em import EMAttention, em_attention
from segnext.models.contexts.non_local import NonLocal, non_local
from segnext.models.contexts.pyramid import GRIDS, PyramidPooling
from segnext.models.contexts.quantisation import VectorQuantisation, soft_k_means
from segnext.models.contexts.table import CONTEXTS
from segnext.models.ham import Hamburger

CHANNELS, RANK = 64, 4
MAKERS: dict[str, Callable[[], Context]] = {
    "ham": lambda: Hamburger(CHANNELS, RANK),
    "vq": lambda: VectorQuantisation(CHANNELS, RANK),
    "cd": lambda: ConceptDecomposition(CHANNELS, RANK),
    "cc": lambda: CrissCross(CHANNELS),
    "em": lambda: EMAttention(CHANNELS, RANK),
    "nl": lambda: NonLocal(CHANNELS),
    "msca": lambda: StripAttention(CHANNELS),
    "aspp": lambda: ASPP(CHANNELS),
    "psp": lambda: PyramidPooling(CHANNELS),
}
SIZES = [(7, 10), (5, 5), (1, 6), (6, 1), (1, 1)]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(name: str) -> Any:
    """Make a module whose parameters are all at work: none is 0 or 1, as some are at the beginning."""
    torch.manual_seed(0)
    module = MAKERS[name]().eval()
    for parameter in module.parameters():
        if parameter.ndim < 2:
            nn.init.normal_(parameter, 0.5, 0.5)
    return module


def norm(x: Tensor, layer: nn.GroupNorm) -> Tensor:
    """GroupNorm, spelt out."""
    groups = x.unflatten(1, (layer.num_groups, -1))
    axes = (2, 3, 4)
    centred = groups - groups.mean(axes, keepdim=True)
    scaled = centred / (groups.var(axes, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return scaled.flatten(1, 2) * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)


def project(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution, spelt out."""
    y = torch.einsum("oc,nchw->nohw", conv.weight.flatten(1), x)
    return y if conv.bias is None else y + conv.bias.view(-1, 1, 1)


def conv_norm_act(x: Tensor, layer: Any) -> Tensor:
    return norm(project(x, layer.conv), layer.norm).relu()


def expected_ham(x: Tensor, module: Hamburger) -> Tensor:
    pixels, outputs = project(x, module.proj_in).relu().flatten(2), []
    for image in pixels:
        bases = module.bases[0]
        coef = (image.T @ bases).softmax(1)
        for _ in range(7):
            coef = coef * (image.T @ bases) / (coef @ bases.T @ bases + 1e-6)
            bases = bases * (image @ coef) / (bases @ coef.T @ coef + 1e-6)
        coef = coef * (image.T @ bases) / (coef @ bases.T @ bases + 1e-6)
        outputs.append(bases @ coef.T)
    y = torch.stack(outputs).unflatten(2, x.shape[2:])
    return (x + norm(project(y, module.proj_out), module.norm)).relu()


def closeness(image: Tensor, bases: Tensor) -> Tensor:
    """How much of each pixel belongs to each base: a softmax over cosines at temperature 1/100."""
    cosines = torch.einsum(
        "dl,dr->lr", image / (image.norm(dim=0) + 1e-6), bases / bases.norm(dim=0).clamp_min(1e-6)
    )
    return (100 * cosines).softmax(1)


def k_means(image: Tensor, bases: Tensor, steps: int = 7) -> Tensor:
    for _ in range(steps):
        weights = closeness(image, bases)
        columns = [(image * weights[:, r]).sum(1) / (weights[:, r].sum() + 1e-6) for r in range(RANK)]
        bases = torch.stack(columns, 1)
    return bases


def expected_vq(x: Tensor, module: VectorQuantisation) -> Tensor:
    outputs = []
    for image in project(x, module.proj_in).flatten(2):
        means = k_means(image, module.bases[0])
        outputs.append(means @ closeness(image, means).T)
    y = torch.stack(outputs).unflatten(2, x.shape[2:])
    return (x + norm(project(y, module.proj_out), module.norm)).relu()


def expected_cd(x: Tensor, module: ConceptDecomposition) -> Tensor:
    outputs = []
    for image in project(x, module.proj_in).flatten(2):
        means = k_means(image, module.bases[0])  # only their directions matter, in between too
        concepts = means / means.norm(dim=0)
        inverse = torch.linalg.inv(concepts.T @ concepts + 0.1 * torch.eye(RANK, dtype=x.dtype))
        outputs.append(concepts @ inverse @ concepts.T @ image)
    y = torch.stack(outputs).unflatten(2, x.shape[2:])
    return (x + norm(project(y, module.proj_out), module.norm)).relu()


def crossed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Criss-cross attention, pixel by pixel."""
    out = torch.zeros_like(value)
    n, _, height, width = value.shape
    for i in range(n):
        for y in range(height):
            for x in range(width):
                cross = [(y, other) for other in range(width)] + [(o, x) for o in range(height) if o != y]
                keys = torch.stack([key[i, :, a, b] for a, b in cross])
                values = torch.stack([value[i, :, a, b] for a, b in cross])
                out[i, :, y, x] = (keys @ query[i, :, y, x]).softmax(0) @ values
    return out


def expected_cc(x: Tensor, module: CrissCross) -> Tensor:
    y = conv_norm_act(x, module.conv_in)
    for _ in range(2):
        attended = crossed(project(y, module.query), project(y, module.key), project(y, module.value))
        y = y + module.gamma.scale * attended
    return conv_norm_act(y, module.conv_out)


def expected_em(x: Tensor, module: EMAttention) -> Tensor:
    outputs = []
    for image in project(x, module.proj_in).flatten(2):
        bases = module.bases[0]
        for _ in range(3):
            weights = (image.T @ bases).softmax(1)
            bases = image @ (weights / weights.sum(0))
            bases = bases / bases.norm(dim=0)
        outputs.append(bases @ weights.T)
    y = torch.stack(outputs).unflatten(2, x.shape[2:]).relu()
    return (x + norm(project(y, module.proj_out), module.norm)).relu()


def expected_nl(x: Tensor, module: NonLocal) -> Tensor:
    theta, phi, g = (project(x, conv).flatten(2) for conv in (module.theta, module.phi, module.g))
    weights = (torch.einsum("nci,ncj->nij", theta, phi) / 32**0.5).softmax(2)
    y = torch.einsum("nij,ncj->nci", weights, g).unflatten(2, x.shape[2:])
    return x + norm(project(y, module.conv_out), module.norm)


def expected_msca(x: Tensor, module: StripAttention) -> Tensor:
    attention = module.attention
    z = norm(x, module.norm)
    u = F.gelu(project(z, attention.proj_in))
    a = attention.strips.root(u)
    m = a + sum(
        column(row(a)) for row, column in zip(attention.strips.rows, attention.strips.columns, strict=True)
    )
    return x + z + project(project(m, attention.mix) * u, attention.proj_out)


def expected_aspp(x: Tensor, module: ASPP) -> Tensor:
    mean = conv_norm_act(x.mean((2, 3), keepdim=True), module.pooled) + 0 * x
    branches = [mean, conv_norm_act(x, module.branches[0])]
    for branch, dilation in zip(list(module.branches)[1:], DILATIONS, strict=True):
        y = F.conv2d(x, branch.conv.weight, padding=dilation, dilation=dilation)
        branches.append(norm(y, branch.norm).relu())
    return conv_norm_act(torch.cat(branches, 1), module.bottleneck)


def expected_psp(x: Tensor, module: PyramidPooling) -> Tensor:
    levels = [x]
    for level, grid in zip(module.levels, GRIDS, strict=True):
        means = conv_norm_act(F.adaptive_avg_pool2d(x, grid), level)
        levels.append(F.interpolate(means, x.shape[2:], mode="bilinear", align_corners=False))
    y = F.conv2d(torch.cat(levels, 1), module.bottleneck.conv.weight, padding=1)
    return norm(y, module.bottleneck.norm).relu()


EXPECTED: dict[str, Callable[..., Tensor]] = {name: globals()[f"expected_{name}"] for name in MAKERS}


def test_every_context_is_tested() -> None:
    assert MAKERS.keys() == CONTEXTS.keys()
    assert all(isinstance(make(name), kind) for name, kind in CONTEXTS.items())


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"h{size[0]}w{size[1]}")
@pytest.mark.parametrize("name", MAKERS)
def test_the_result_is_the_papers(name: str, size: tuple[int, int]) -> None:
    module = make(name).double()
    x = noise(2, CHANNELS, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = EXPECTED[name](x, module)
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            module(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", MAKERS)
def test_images_do_not_see_each_other(name: str) -> None:
    module = make(name)
    images = noise(3, CHANNELS, 6, 9)
    with torch.no_grad():
        together = module(images)
        for index, image in enumerate(images):
            torch.testing.assert_close(together[index], module(image[None])[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(module(images), together)
        if name not in ("ham", "vq", "cd"):  # whose training draws bases
            torch.testing.assert_close(module.train()(images), together)


@pytest.mark.parametrize("name", MAKERS)
def test_low_precision_is_finite_and_near(name: str) -> None:
    module, x = make(name), noise(2, CHANNELS, 6, 9)
    with torch.no_grad():
        expected = module(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = module(x)
        low = module.bfloat16()(x.bfloat16())
        large = module(1e4 * x.bfloat16())
    assert low.dtype == torch.bfloat16 and large.isfinite().all()
    for given in (mixed, low):  # a few pixels change sides in the soft k-means
        assert (given - expected).abs().mean() < 0.1 * expected.std()


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_reach_what_learns(name: str) -> None:
    module = make(name).train()
    x = noise(2, CHANNELS, 5, 7).requires_grad_()
    module(x).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()
    for key, parameter in module.named_parameters():
        learns = not key.startswith("proj_in.") or name != "em"  # frozen, as in mmsegmentation
        assert parameter.requires_grad == learns
        if learns:
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), (
                key
            )


INNER: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "cc": (criss_cross, [(2, 3, 3, 4), (2, 3, 3, 4), (2, 5, 3, 4)]),
    "nl": (non_local, [(2, 3, 3, 2)] * 3),
    "vq": (lambda x: soft_k_means(x / 10, unit(3, 2), 3, "unrolled"), [(2, 3, 5)]),
    "cd": (lambda x: concept_decomposition(x, unit(3, 2), 3, "unrolled"), [(2, 3, 5)]),
}


def unit(channels: int, rank: int) -> Tensor:
    return F.normalize(noise(1, channels, rank, seed=5, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("name", INNER)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    function, shapes = INNER[name]
    inputs = [noise(*shape, seed=i, dtype=torch.float64) for i, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in inputs], atol=1e-4)


@pytest.mark.parametrize("function", [soft_k_means, concept_decomposition])
def test_one_step_differentiates_the_last_coefficients_alone(function: Callable[..., Tensor]) -> None:
    x, bases = noise(1, 6, 9, dtype=torch.float64), unit(6, 3)
    first, second, all_steps = (x.clone().requires_grad_() for _ in range(3))
    function(first, bases, 4, "one_step").square().sum().backward()
    with torch.no_grad():
        fitted = bases
        for _ in range(4):
            weights = (100 * F.normalize(x, dim=1).mT @ F.normalize(fitted, dim=1)).softmax(2)
            fitted = x @ (weights / (weights.sum(1, keepdim=True) + 1e-6))
    fitted = F.normalize(fitted, dim=1) if function is concept_decomposition else fitted
    function(second, fitted, 0, "one_step").square().sum().backward()
    function(all_steps, bases, 4, "unrolled").square().sum().backward()
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(first.grad, all_steps.grad, rtol=1e-2)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ham", "vq", "cd"])
def test_bases_are_drawn_in_training_and_seeded_for_evaluation(name: str) -> None:
    module, again = make(name), make(name)
    torch.manual_seed(1)
    assert torch.equal(module.bases, MAKERS[name]().bases) and torch.equal(module.bases, again.bases)
    torch.testing.assert_close(module.bases.norm(dim=1), torch.ones(1, RANK))
    assert bool((module.bases < 0).any()) == (name != "ham")
    x = noise(1, CHANNELS, 6, 9)
    with torch.no_grad():
        assert not torch.equal(module.train()(x), module(x))
        assert torch.equal(module.eval()(x), again(x))


def test_the_bases_of_em_attention_stay_without_usable_images() -> None:
    module = make("em").train()
    before = module.bases.clone()
    module(torch.empty(0, CHANNELS, 5, 7))
    module(torch.full((1, CHANNELS, 5, 7), torch.inf))
    assert torch.equal(module.bases, before)
    module(noise(1, CHANNELS, 5, 7))
    assert not torch.equal(module.bases, before)


def test_non_local_begins_as_the_identity_after_a_reset_too() -> None:
    module, x = MAKERS["nl"]().eval(), noise(1, CHANNELS, 5, 7)
    assert torch.equal(module(x), x)
    make_new = MAKERS["nl"]().to_empty(device="cpu").eval()
    for part in make_new.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert torch.equal(make_new(x), x)


def test_the_bases_of_em_attention_follow_the_images_in_training() -> None:
    module, x = make("em"), noise(3, CHANNELS, 5, 7)
    with torch.no_grad():
        before = module.bases.clone()
        _, fitted = em_attention(module.proj_in(x).flatten(2), before)
        module(x)
        assert torch.equal(module.bases, before)  # not in evaluation
        module.train()(x)
        mean = F.normalize(fitted.mean(0, keepdim=True), dim=1)
        torch.testing.assert_close(module.bases, 0.9 * before + 0.1 * mean)
        moved = module.bases.clone()
        module.requires_grad_(False)(x)  # frozen
        assert torch.equal(module.bases, moved)
