"""Tests nmf2d beyond the contract: tiles, chunks and groups of pixels, ranks of any width, layouts, NaN and Inf."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from oracle.accuracy import assert_accurate, assert_gradient_accurate
from oracle.gradients import cast, random_grad, with_gradient
from segnext.models.ham import Hamburger
from segnext_kernels import native, nmf2d, use_backend
from segnext_kernels.ops.nmf2d import reference
from segnext_kernels.ops.nmf2d.spec import SPEC
from tests.contract.cases import assert_bitwise, strides

pytestmark = pytest.mark.skipif(native._C is None, reason="the compiled library is missing")
ORDERS = {"pixels-inner": False, "channels-inner": True}
over_orders = pytest.mark.parametrize("channels_inner", ORDERS.values(), ids=ORDERS.keys())


def ordered(x: torch.Tensor, channels_inner: bool) -> torch.Tensor:
    return x.mT.contiguous().mT if channels_inner else x.contiguous()


def arguments(
    b: int, d: int, n: int, r: int, steps: int = 3, grad: str = "unrolled", channels_inner: bool = True
) -> tuple[Any, ...]:
    x, *others = SPEC.samples[0].make(b=b, d=d, n=n, r=r, steps=steps, grad=grad)
    return ordered(x, channels_inner), *others


def run(args: tuple[Any, ...], threads: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return result and gradient of x by the CPU kernels, for the same random gradient at each call."""
    if threads is not None:
        torch.set_num_threads(threads)
    args, leaves = with_gradient(SPEC, args)
    with use_backend("cpu"):
        out = SPEC.call(*args)
    return out.detach(), torch.autograd.grad(out, leaves, random_grad(out))[0]


def by_definition(args: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    args, leaves = with_gradient(SPEC, args)
    out = SPEC.reference(*args)
    return out.detach(), torch.autograd.grad(out, leaves, random_grad(out))[0]


def assert_right(args: tuple[Any, ...]) -> None:
    out, grad = run(args)
    oracle, eager = by_definition(cast(args, torch.float64)), by_definition(args)
    assert_accurate(out, oracle[0], eager[0])
    assert_gradient_accurate(grad, oracle[1], eager[1])
    assert strides(out) == strides(grad) == strides(args[0])


@pytest.mark.usefixtures("instruction_set")
@over_orders
@pytest.mark.parametrize("rank", [1, 5, 16, 33, 64, 100])
def test_ranks(rank: int, channels_inner: bool) -> None:
    """There are several tiles and (up to rank 64) chunks, the last ones short; channels are no multiple of a vector."""
    assert_right(arguments(2, 37, 1000, rank, channels_inner=channels_inner))


@over_orders
@pytest.mark.parametrize("pixels", [1, 2, 63, 64, 65, 128, 129, 191, 4097])
def test_every_pixel_counts(pixels: int, channels_inner: bool) -> None:
    assert_right(arguments(1, 16, pixels, 4, channels_inner=channels_inner))


@over_orders
@pytest.mark.parametrize("grad", ["unrolled", "one_step"])
@pytest.mark.parametrize("sizes", [(1, 48, 5000, 16), (3, 20, 1000, 33), (2, 130, 700, 64)], ids=str)
def test_the_same_for_any_number_of_threads(
    sizes: tuple[int, int, int, int], grad: str, channels_inner: bool, threads: None
) -> None:
    args = arguments(*sizes, steps=2, grad=grad, channels_inner=channels_inner)
    first = run(args, 1)
    for count in (2, 3, 7):
        assert_bitwise(run(args, count), first, f"with {count} threads")


def test_grouping_images_changes_nothing() -> None:
    b, d, n, r = 3, 300, 10001, 3
    assert 2 * d * n * 4 > 16 << 20 > d * n * 4, "no longer more than one group; see kGroupBytes"
    args = arguments(b, d, n, r, steps=1)
    out, saved_bases, saved_coef = _saved(args)
    for i in range(b):
        alone = _saved((args[0][i : i + 1], *args[1:]))
        assert_bitwise((out[i : i + 1], saved_bases[:, i : i + 1], saved_coef[:, i : i + 1]), alone)


def _saved(args: tuple[Any, ...]) -> Any:
    with use_backend("cpu"):
        return SPEC.op(*args)


@pytest.mark.parametrize("grad", ["unrolled", "one_step"])
def test_saved_states_are_the_definitions(grad: str) -> None:
    args = arguments(2, 24, 300, 20, steps=4, grad=grad)
    for actual, oracle, eager in zip(
        _saved(args), reference.nmf2d(*cast(args, torch.float64)), reference.nmf2d(*args), strict=True
    ):
        assert_accurate(actual, oracle, eager)


class _Calls(TorchDispatchMode):
    """Collects the names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@over_orders
def test_nothing_is_copied_around_the_op(channels_inner: bool) -> None:
    args, leaves = with_gradient(SPEC, arguments(2, 20, 70, 4, channels_inner=channels_inner))
    with _Calls() as calls, use_backend("cpu"):
        out = SPEC.call(*args)
        torch.autograd.grad(out, leaves, torch.ones_like(out))
    assert "segnext_kernels.nmf2d_backward.default" in calls.names
    assert not [name for name in calls.names if "clone" in name or "copy" in name]


def test_nothing_is_copied_in_the_decoder() -> None:
    hamburger = Hamburger(64, 4).eval()
    x = torch.randn(2, 64, 5, 7).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), _Calls() as calls:
        y = hamburger(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    before = calls.names.index("segnext_kernels.nmf2d.default")
    around = calls.names[: calls.names.index("segnext_kernels.group_norm_act.default", before)]
    assert not [name for name in around if "clone" in name or "copy" in name]


@pytest.mark.usefixtures("instruction_set")
@over_orders
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=["nan", "inf", "minus-inf"])
@pytest.mark.parametrize("pixel", [0, 63, 64, 299])
def test_not_finite_pixels(pixel: int, value: float, channels_inner: bool) -> None:
    args = arguments(2, 20, 300, 5, steps=2, channels_inner=channels_inner)
    args[0][0, 3, pixel] = value
    out, grad = run(args)
    expected, expected_grad = by_definition(args)
    assert torch.equal(out.isfinite(), expected.isfinite()) and not out[0].isfinite().all()
    assert torch.equal(grad.isfinite(), expected_grad.isfinite())
    assert out[1].isfinite().all() and grad[1].isfinite().all()


@pytest.mark.usefixtures("instruction_set")
def test_large_values_whose_softmax_is_one_hot() -> None:
    """With logits thousands apart, all coefs of a pixel but one are and stay zero; the gradient is only rounding."""
    x, *others = arguments(1, 40, 500, 16)
    out, _ = run((x * 1000, *others))
    assert_accurate(
        out,
        SPEC.reference(x.double() * 1000, *cast(tuple(others), torch.float64)),
        SPEC.reference(x * 1000, *others),
    )
    assert_right((x * 30, *others))


@over_orders
def test_dead_channels_and_black_pixels(channels_inner: bool) -> None:
    args = arguments(2, 20, 300, 5, channels_inner=channels_inner)
    args[0][:, 4] = 0
    args[0][:, :, 100:170] = 0
    assert_right(args)


@pytest.mark.parametrize("sizes", [(2, 4, 0, 3), (2, 0, 5, 3), (0, 4, 5, 3), (2, 4, 5, 0)], ids=str)
def test_empty(sizes: tuple[int, int, int, int]) -> None:
    b, d, n, r = sizes
    args = (torch.rand(b, d, n), torch.rand(1, d, r), 2, "unrolled", 1e-6, True)
    for actual, expected in zip(_saved(args), reference.nmf2d(*args), strict=True):
        torch.testing.assert_close(actual, expected)
    grad = torch.rand(b, d, n)
    with use_backend("cpu"):
        actual = torch.ops.segnext_kernels.nmf2d_backward(grad, args[0], *_saved(args)[1:], "unrolled", 1e-6)
    assert actual.shape == args[0].shape and actual.isfinite().all()


def test_saved_states_of_any_strides() -> None:
    """A compiler may return them in another order than they were made."""
    x, *others = arguments(2, 20, 150, 5)
    _, saved_bases, saved_coef = _saved((x, *others))
    grad = torch.rand_like(x)

    def backward(saved_bases: torch.Tensor, saved_coef: torch.Tensor) -> torch.Tensor:
        return torch.ops.segnext_kernels.nmf2d_backward(grad, x, saved_bases, saved_coef, "unrolled", 1e-6)

    with use_backend("cpu"):
        turned = backward(saved_bases.mT.contiguous().mT, saved_coef.mT.contiguous().mT)
        assert_bitwise(turned, backward(saved_bases, saved_coef))


def test_bases_of_any_strides() -> None:
    x, bases, steps, *_ = arguments(2, 20, 150, 5)
    with use_backend("cpu"):
        assert_bitwise(nmf2d(x, bases.mT.contiguous().mT, steps), nmf2d(x, bases, steps))


def test_backward_without_the_state_names_the_public_function() -> None:
    x, bases, *_ = arguments(1, 4, 6, 2)
    out, *_ = SPEC.op(x.requires_grad_(), bases, 1, "unrolled", 1e-6, False)
    with pytest.raises(
        RuntimeError, match="needs the state of the loop, got none; call segnext_kernels.nmf2d"
    ):
        out.sum().backward()
