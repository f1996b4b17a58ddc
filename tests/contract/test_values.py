"""Contract of every op: its numbers, for every input and on every backend that takes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from oracle.accuracy import assert_gradient_accurate, assert_output
from oracle.gradients import cast, gradients_of, random_grad
from tests.contract.cases import DIFFERENTIABLE, Case, assert_bitwise, over, tensors

ALL_DTYPES = ("fp64", "fp32", "fp16", "bf16")
OWN_DTYPES = ("fp64", "fp32", "bf16")  # of the CPU kernels


def assert_right(case: Case, out: torch.Tensor, args: tuple[Any, ...]) -> None:
    """Assert by the accuracy rule that ``out`` is the op's result on ``args``."""
    assert_output(case.spec, out, args)


def reference_gradients(case: Case, args: tuple[Any, ...], grad: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients by PyTorch's own autograd through the definition."""
    return gradients_of(case.spec.reference, case.spec, args, grad)


def assert_right_gradients(
    case: Case, grads: list[torch.Tensor], args: tuple[Any, ...], grad: torch.Tensor
) -> None:
    """Assert by the accuracy rule that ``grads`` are the gradients for an incoming ``grad``."""
    versions = (cast(args, torch.float64), args, cast(args, torch.float32))
    expected = [reference_gradients(case, version, grad) for version in versions]
    for index, (actual, *others) in enumerate(zip(grads, *expected, strict=True)):
        assert_gradient_accurate(actual, *others, what=f"gradient {index}")


@over(dtypes=ALL_DTYPES)
def test_forward_is_the_definition(case: Case) -> None:
    args = case.args()
    out = case.run(*args)
    assert_right(case, out, args)
    if out.ndim == 4 and out.numel():
        assert out.is_contiguous(memory_format=case.layout)


@over(DIFFERENTIABLE, dtypes=ALL_DTYPES, backward=True)
def test_backward_is_the_definitions_gradient(case: Case) -> None:
    args = case.args()
    grad = random_grad(case.run(*args))
    grads = case.backward(args, grad)
    assert_right_gradients(case, grads, args, grad)
    if grads[0].ndim == 4 and grads[0].numel():
        assert grads[0].is_contiguous(memory_format=case.layout)


def _poisoned(t: torch.Tensor) -> torch.Tensor:
    """Return the same values in the same axis order inside a larger tensor of NaN (0 for integers)."""
    order = sorted(range(t.ndim), key=lambda axis: -t.stride(axis))
    larger = t.new_full([t.shape[axis] + 3 for axis in order], torch.nan if t.is_floating_point() else 0)
    inside = larger[tuple(slice(1, 1 + t.shape[axis]) for axis in order)]
    return inside.permute([order.index(axis) for axis in range(t.ndim)]).copy_(t)


def _every_second(t: torch.Tensor) -> torch.Tensor:
    """Return the values as every second element along the last axis of a larger tensor, with NaN between them."""
    larger = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), torch.nan if t.is_floating_point() else 0)
    return larger[..., ::2].copy_(t)


def _transposed(t: torch.Tensor) -> torch.Tensor:
    """Store the last two axes in the other order."""
    return t.mT.contiguous().mT if t.ndim > 1 else t.clone()


def _expanded(t: torch.Tensor) -> torch.Tensor:
    """Repeat the first row for all rows; it is stored once."""
    return t[:1].expand_as(t) if t.shape[0] else t


VIEWS = {"slices": _poisoned, "every-second": _every_second, "transposed": _transposed, "expanded": _expanded}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@over(first_only=True)
def test_strided_views(case: Case, view: Any) -> None:
    args = tree_map_only(torch.Tensor, view, case.args())
    out = case.run(*args)
    assert_right(case, out, args)
    inner_rows = out.ndim == 3 and out.mT.is_contiguous()  # this is what channels_last is for matrices
    assert out.is_contiguous() or out.is_contiguous(memory_format=torch.channels_last) or inner_rows


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@over(DIFFERENTIABLE, first_only=True, backward=True)
def test_backward_of_strided_views(case: Case, view: Any) -> None:
    args = tree_map_only(torch.Tensor, view, case.args())
    grad = random_grad(case.run(*args))
    assert_right_gradients(case, case.backward(args, grad), args, grad)


def _gives_more_than_a_number(case: Case) -> bool:
    return case.spec.reference(*case.args()).ndim > 0


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@over(DIFFERENTIABLE, first_only=True, backward=True, where=_gives_more_than_a_number)
def test_incoming_gradient_of_any_strides(case: Case, view: Any) -> None:
    args = case.args()
    grad = view(random_grad(case.run(*args)))
    assert_bitwise(case.backward(args, grad), case.backward(args, grad.contiguous()), "gradient")


@over(DIFFERENTIABLE, first_only=True, backward=True)
def test_gradient_of_a_sum(case: Case) -> None:
    """`out.sum().backward()`: the incoming gradient is one number, expanded with zero strides."""
    args, leaves = case.with_gradient(case.args())
    case.run(*args).sum().backward()
    ones = torch.ones_like(case.run(*args))
    assert_bitwise([leaf.grad for leaf in leaves], case.backward(args, ones), "gradient")


@over()
def test_deterministic_and_inputs_untouched(case: Case) -> None:
    args = case.args()
    before = tree_map_only(torch.Tensor, torch.clone, args)
    assert_bitwise(case.run(*args), case.run(*args))
    assert_bitwise(args, before, "input")


# PyTorch's own gradient of a bilinear resize adds atomically on a GPU
@over(DIFFERENTIABLE, backward=True, where=lambda case: (case.backend, case.device) != ("reference", "cuda"))
def test_backward_deterministic_and_inputs_untouched(case: Case) -> None:
    args = case.args()
    grad = random_grad(case.run(*args))
    before = tree_map_only(torch.Tensor, torch.clone, (args, grad))
    assert_bitwise(case.backward(args, grad), case.backward(args, grad), "gradient")
    assert_bitwise((args, grad), before, "input")


@over(DIFFERENTIABLE, OWN_DTYPES, first_only=True, backward=True, where=lambda case: case.backend == "cpu")
def test_backward_is_the_same_for_any_number_of_threads(case: Case, threads: None) -> None:
    args, results = case.args(), []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        results.append(case.backward(args))
    for result in results[1:]:
        assert_bitwise(result, results[0], "gradient")


@over(dtypes=OWN_DTYPES, first_only=True, where=lambda case: case.backend == "cpu")
def test_the_same_for_any_number_of_threads(case: Case, threads: None) -> None:
    args, results = case.args(), []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        results.append(case.run(*args))
    for result in results[1:]:
        assert_bitwise(result, results[0])


@over()
def test_result_owns_its_memory(case: Case) -> None:
    args = case.args()
    owned = {t.untyped_storage().data_ptr() for t in tensors(args) if t.numel()}
    out = case.run(*args)
    assert not out.numel() or out.untyped_storage().data_ptr() not in owned


@over(DIFFERENTIABLE, backward=True)
def test_gradients_own_their_memory(case: Case) -> None:
    args = case.args()
    grad = random_grad(case.run(*args))
    pointers = [
        t.untyped_storage().data_ptr()
        for t in (*tensors(args), grad, *case.backward(args, grad))
        if t.numel()
    ]
    assert len(pointers) == len(set(pointers))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=["nan", "inf", "minus-inf"])
@over(first_only=True, dtypes=("fp64", "fp32", "bf16"))
def test_non_finite_input_comes_out_as_by_the_definition(case: Case, value: float) -> None:
    args = case.args()
    image = args[0]
    # one pixel of one channel of the first image, away from the border; the last image stays clean
    image[(0, 1, *(size // 2 for size in image.shape[2:]))] = value
    out = case.run(*args)
    assert_right(case, out, args)
    if out.ndim and out.is_floating_point():
        assert not out[0].isfinite().all(), "nothing came out of it"
        assert out[-1].isfinite().all(), "it reached another image"


@over(DIFFERENTIABLE, first_only=True, backward=True)
def test_nan_comes_back_in_the_gradient(case: Case) -> None:
    args = case.args()
    grad = random_grad(case.run(*args))
    for image in tensors(args):  # in each, because an op may be linear in one of them
        if image.shape == args[0].shape:
            image[(0, 1, *(size // 2 for size in image.shape[2:]))] = torch.nan
    grads = case.backward(args, grad)
    expected = reference_gradients(case, args, grad)
    assert any(not g.isfinite().all() for g in expected)
    for actual, by_definition in zip(grads, expected, strict=True):
        assert torch.equal(actual.isfinite(), by_definition.isfinite())
