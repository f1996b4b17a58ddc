"""Tests what `define_op` and its companions make of a toy operator with a list, an option and two results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from segnext_kernels import backend
from segnext_kernels.kernel import Kernel
from segnext_kernels.registration import (
    NAMESPACE,
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
    forbid_gradient,
)
from segnext_kernels.spec import all_specs

NAME = "toy_weighted"
ARGUMENTS = "Tensor x, Tensor[] weights, Tensor? shift, float scale"


def _forward(
    x: torch.Tensor, weights: list[torch.Tensor], shift: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (scale * sum(weights) * x + shift, x squared)."""
    out = x * sum(weights, torch.zeros_like(x)) * scale
    return out if shift is None else out + shift, x.square()


def _backward(
    grad: torch.Tensor, grad_square: torch.Tensor, x: torch.Tensor, weights: list[torch.Tensor], scale: float
) -> list[torch.Tensor]:
    grad_x = grad * sum(weights, torch.zeros_like(x)) * scale + 2 * x * grad_square
    return [grad_x, *(grad * x * scale for _ in weights), grad.clone()]


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> (Tensor, Tensor)",
    reference=_forward,
    fake=lambda x, *_: (torch.empty_like(x), torch.empty_like(x)),
    flops=lambda x, weights, *_, **__: len(weights) * x.numel(),
)
_backward_op = define_op(
    f"{NAME}_backward",
    "(Tensor grad, Tensor grad_square, Tensor x, Tensor[] weights, float scale) -> Tensor[]",
    reference=_backward,
    fake=lambda grad, grad_square, x, weights, scale: [torch.empty_like(x) for _ in range(2 + len(weights))],
)


def _differentiate(
    saved: tuple[Any, ...], other: tuple[float, bool], *grads: torch.Tensor
) -> tuple[Any, ...]:
    x, *weights = saved
    scale, shifted = other
    grad_x, *rest = _backward_op(*grads, x, weights, scale)
    return grad_x, rest[:-1], rest[-1] if shifted else None, None


define_autograd(
    NAME,
    save=lambda inputs, output: ((inputs[0], *inputs[1]), (inputs[3], inputs[2] is not None)),
    backward=_differentiate,
)
forbid_double_backward(NAME)
define_autocast(NAME, "x", "weights")
define_vmap(NAME)


def arguments(dtype: torch.dtype = torch.float32, shift: bool = True) -> tuple[Any, ...]:
    x, first, second = (torch.randn(3, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    return x, [first, second], torch.randn(3, 4, dtype=dtype, requires_grad=True) if shift else None, 0.5


@pytest.mark.parametrize("shift", [True, False], ids=["shift", "no-shift"])
def test_an_op_defined_here_passes_opcheck_and_gradcheck(shift: bool) -> None:
    args = arguments(torch.float64, shift)
    opcheck(_op, args)
    x, weights, maybe, scale = args
    tensors = (x, *weights, *([maybe] if shift else []))

    def function(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor, *shift: torch.Tensor) -> Any:
        return _op(x, [first, second], shift[0] if shift else None, scale)

    assert torch.autograd.gradcheck(function, tensors)


def test_the_op_is_the_one_of_its_name() -> None:
    assert _op is getattr(torch.ops, NAMESPACE).toy_weighted.default
    assert list(backend.KERNELS[NAME]) == ["reference"]


def test_kernels_are_kept_in_the_order_of_preference() -> None:
    def kernel(*args: Any) -> Any:
        return args[0].clone()

    kernels = {name: Kernel(kernel, refuses=lambda *args: "never") for name in ("cpu", "cuda")}
    op = define_op(
        "toy_order", "(Tensor x) -> Tensor", reference=kernel, fake=torch.empty_like, kernels=kernels
    )
    assert list(backend.KERNELS["toy_order"]) == ["cuda", "cpu", "reference"]
    assert op(torch.ones(1)).item() == 1


def test_autocast_rule_casts_lists_and_leaves_what_it_names() -> None:
    x, weights, shift, scale = (torch.randn(3, 4), [torch.randn(3, 4)], torch.randn(3, 4), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        out, square = _op(x, weights, shift, scale)
    expected = _op(x.bfloat16(), [weights[0].bfloat16()], shift, scale)
    assert out.dtype == torch.float32 and square.dtype == torch.bfloat16
    assert torch.equal(out, expected[0]) and torch.equal(square, expected[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert _op(x.double(), [weights[0].double()], shift.double(), scale)[0].dtype == torch.float64
    assert _op(x, weights, shift, scale)[0].dtype == torch.float32, "the rule holds outside autocast too"


def test_autocast_is_differentiable_to_the_uncast_tensors() -> None:
    x, weights, shift, scale = arguments()
    with torch.autocast("cpu", torch.bfloat16):
        out, square = _op(x, weights, shift, scale)
    (out.sum() + square.sum()).backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in (x, *weights, shift))


@pytest.mark.parametrize("in_dims", [(0, None, None), (1, [0, None], 2), (None, [1, 1], None)], ids=str)
def test_vmap_over_lists_and_several_results(in_dims: tuple[Any, ...]) -> None:
    def batched(dim: Any) -> torch.Tensor:
        return torch.randn(3, 4) if dim is None else torch.randn(2, 3, 4).movedim(0, dim)

    x_dim, weight_dims, shift_dim = in_dims
    weight_dims = weight_dims or [None, None]
    x, weights, shift = batched(x_dim), [batched(dim) for dim in weight_dims], batched(shift_dim)
    out = torch.func.vmap(_op, (x_dim, weight_dims, shift_dim, None))(x, weights, shift, 0.5)

    def pick(t: torch.Tensor, dim: Any, index: int) -> torch.Tensor:
        return t if dim is None else t.select(dim, index)

    for index in range(2):
        chosen = [pick(w, dim, index) for w, dim in zip(weights, weight_dims, strict=True)]
        expected = _op(pick(x, x_dim, index), chosen, pick(shift, shift_dim, index), 0.5)
        assert all(torch.equal(o[index], e) for o, e in zip(out, expected, strict=True))


def test_flop_formula_is_registered() -> None:
    x, weights, shift, scale = arguments()
    with FlopCounterMode(display=False) as counter:
        _op(x, weights, shift, scale)
    assert counter.get_total_flops() == 2 * 12


def test_double_backward_and_forbidden_gradients_say_so() -> None:
    x, weights, shift, scale = arguments()
    out, _ = _op(x, weights, shift, scale)
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(
        NotImplementedError,
        match=r"^toy_weighted_backward: no gradient is offered; for second derivatives call"
        r" segnext_kernels.ops.toy_weighted.reference.toy_weighted",
    ):
        grad.sum().backward()


def test_forbid_gradient_gives_the_remedy() -> None:
    op = define_op("toy_final", "(Tensor x) -> Tensor", reference=torch.clone, fake=torch.empty_like)
    forbid_gradient("toy_final", "use another")
    out = op(torch.ones(2, requires_grad=True))
    with pytest.raises(NotImplementedError, match=r"^toy_final: no gradient is offered; use another$"):
        out.sum().backward()


def test_what_autocast_leaves_in_full_precision() -> None:
    """Statistics, affine parameters and NMF state; the contract's autocast cases read the rule itself."""
    kept = {
        name: names
        for name, spec in all_specs().items()
        if (names := [n for n in _tensor_arguments(spec.op) if n not in spec.low_precision])
    }
    assert kept == {
        "channel_norm": ["weight", "bias"],
        "group_norm_act": ["weight", "bias"],
        "nmf2d": ["bases"],
        "nmf2d_projected": ["bases", "projection"],
        "upsample_argmax": ["logits"],
        "upsample_cross_entropy": ["logits", "target", "class_weight"],
    }


def _tensor_arguments(op: Any) -> list[str]:
    return [argument.name for argument in op._schema.arguments if "Tensor" in str(argument.type)]
