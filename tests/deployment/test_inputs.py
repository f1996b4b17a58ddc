"""Tests that packed layers read only tensors whose memory holds the values, and sizes of any kind of integer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from segnext import deploy
from segnext.deployment.model import DeployedSegNeXt
from segnext.models import SegNeXt
from segnext_kernels import dwconv_gelu, native, use_backend
from tests.models.narrow import narrow


@pytest.fixture(scope="module")
def model() -> SegNeXt:
    return narrow()


@pytest.fixture(scope="module")
def fast(model: SegNeXt) -> DeployedSegNeXt:
    return deploy(model)


def images() -> torch.Tensor:
    return torch.randn(1, 3, 40, 48, generator=torch.Generator().manual_seed(1))


def _fake(fast: DeployedSegNeXt) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fast(mode.from_tensor(images()))


WITHOUT_MEMORY: dict[str, tuple[Callable[[DeployedSegNeXt], Any], str]] = {
    "fake": (_fake, "a fake tensor"),
    "jit.trace": (lambda fast: torch.jit.trace(lambda x: fast(x), images()), "tensors that are traced"),
    "make_fx": (lambda fast: make_fx(lambda x: fast.predict(x))(images()), "tensors that are traced"),
    "grad": (lambda fast: torch.func.grad(lambda x: fast(x).sum())(images()), "a tensor inside a transform"),
    "jvp": (lambda fast: torch.func.jvp(fast, (images(),), (images(),)), "a tensor inside a transform"),
    "vmap": (lambda fast: torch.func.vmap(fast)(images()[None]), "a tensor inside a transform"),
}


@pytest.mark.skipif(native._C is None, reason="the compiled library is missing")
@pytest.mark.parametrize("case", WITHOUT_MEMORY)
def test_packed_layers_refuse_what_only_operators_can_read(fast: DeployedSegNeXt, case: str) -> None:
    call, got = WITHOUT_MEMORY[case]
    with pytest.raises(
        TypeError, match=f"^deployed segnext_t: images must be ordinary tensors, got {got}.*; use"
    ):
        call(fast)


def _dual(fast: DeployedSegNeXt) -> None:
    with forward_ad.dual_level():
        fast(forward_ad.make_dual(images(), images()))


DERIVATIVES: dict[str, Callable[[DeployedSegNeXt], Any]] = {
    "backward": lambda fast: fast(images().requires_grad_()),
    "dual": _dual,
    "grad": lambda fast: torch.func.grad(lambda x: fast(x).sum())(images()),
    "jvp": lambda fast: torch.func.jvp(fast, (images(),), (images(),)),
    "vmap of grad": lambda fast: torch.func.vmap(torch.func.grad(lambda x: fast(x).sum()))(images()[None]),
    "grad of vmap": lambda fast: torch.func.grad(lambda x: torch.func.vmap(fast)(x).sum())(images()[None]),
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", DERIVATIVES)
def test_a_derivative_is_never_silently_zero(model: SegNeXt, backend: str, case: str) -> None:
    with use_backend(backend):
        fast = deploy(model)
        with pytest.raises(
            TypeError, match=r"^deployed segnext_t: images must (need no derivative|be ordinary)"
        ):
            DERIVATIVES[case](fast)


def test_images_that_need_a_gradient_elsewhere(fast: DeployedSegNeXt) -> None:
    needs = images().requires_grad_()
    with torch.no_grad():
        assert torch.equal(fast(needs), fast(images()))
    assert torch.equal(fast.predict(needs), fast.predict(images()))


def test_the_network_of_public_ops_can_be_traced(model: SegNeXt) -> None:
    with use_backend("reference"):
        fast = deploy(model)
        graph = make_fx(lambda x: fast(x))(images())
        torch.testing.assert_close(graph(2 * images()), fast(2 * images()))


def test_a_view_that_waits_to_be_negated(fast: DeployedSegNeXt) -> None:
    opposite = torch._neg_view(-images())  # as the imaginary part of a conjugated tensor is
    assert torch.equal(fast(opposite), fast(images()))
    assert torch.equal(fast.predict(opposite), fast.predict(images()))


def test_a_freed_storage_is_refused() -> None:
    x, weight = torch.zeros(1, 8, 3, 3), torch.zeros(8, 1, 3, 3)
    weight.untyped_storage().resize_(0)  # as FSDP does between two uses
    with use_backend("auto"), pytest.raises((ValueError, RuntimeError), match="memory|not allocated"):
        dwconv_gelu(x, weight, torch.zeros(8))


@pytest.mark.parametrize("size", [np.array([40, 24]), (np.int64(40), torch.tensor(24)), [40, 24]], ids=repr)
def test_sizes_are_integers_of_any_kind(fast: DeployedSegNeXt, size: Any) -> None:
    assert torch.equal(fast.predict(images(), size), fast.predict(images(), (40, 24)))


@pytest.mark.parametrize("size", [0, (), [], False, (0, 24), 40, (40.0, 24.0)], ids=repr)
def test_other_sizes_are_refused(fast: DeployedSegNeXt, size: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^upsample_argmax: size must be [^\n]*$"):
        fast.predict(images(), size)
