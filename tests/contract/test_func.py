"""Contract of every op: torch.func gives the gradients of autograd, and refuses what an op does not offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from oracle.gradients import random_grad, with_gradient
from oracle.inputs import LAYOUTS
from segnext import segnext_t
from segnext_kernels.spec import Spec
from tests.contract.cases import (
    DIFFERENTIABLE,
    SPECS,
    assert_bitwise,
    backward_of,
    over_specs,
    strides,
    tensors,
)

over_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def function_of(spec: Spec, args: tuple[Any, ...]) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    """Return the op as a function of its differentiable arguments, None among them left out, and these."""
    wanted = [
        name in spec.differentiable and a is not None
        for name, a in zip(spec.argument_names, args, strict=True)
    ]

    def function(*values: Any) -> torch.Tensor:
        rest = iter(values)
        return spec.call(*(next(rest) if w else a for w, a in zip(wanted, args, strict=True)))

    return function, tuple(a for w, a in zip(wanted, args, strict=True) if w)


def by_autograd(spec: Spec, args: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Return the op's result, an incoming gradient, and the gradients of the differentiable tensors."""
    args, leaves = with_gradient(spec, args)
    out = spec.call(*args)
    incoming = random_grad(out)
    return out.detach(), incoming, backward_of(out, leaves, incoming)


@over_layouts
@over_specs(DIFFERENTIABLE)
def test_vjp_is_autograd(spec: Spec, layout: torch.memory_format) -> None:
    args = spec.samples[0].make(layout=layout)
    expected, incoming, gradients = by_autograd(spec, args)
    function, values = function_of(spec, args)
    out, pull = vjp(function, *values)
    actual = tensors(pull(incoming))
    assert_bitwise([out, *actual], [expected, *gradients])
    assert list(map(strides, actual)) == list(map(strides, gradients))


@over_layouts
@over_specs(DIFFERENTIABLE)
def test_gradients_per_example(spec: Spec, layout: torch.memory_format) -> None:
    """vmap outside grad gives each example the gradients that it gets alone; so does grad outside vmap."""
    versions = [
        spec.samples[0].make(layout=layout, generator=torch.Generator().manual_seed(seed))
        for seed in range(2)
    ]
    functions, values = zip(*(function_of(spec, version) for version in versions), strict=True)
    x, rest = torch.stack([v[0] for v in values]), values[0][1:]
    alone = [grad(lambda x: functions[0](x, *rest).sum())(v[0]) for v in values]
    inside = vmap(grad(lambda x: functions[0](x, *rest).sum()))(x)
    outside = grad(lambda x: vmap(lambda one: functions[0](one, *rest))(x).sum())(x)
    assert_bitwise([inside, outside], [torch.stack(alone)] * 2, "gradient")


@over_specs(DIFFERENTIABLE)
def test_jacrev_holds_every_vjp(spec: Spec) -> None:
    args = spec.samples[0].make(h=4, w=3) if "h" in spec.samples[0].sizes else spec.samples[0].make()
    function, values = function_of(spec, args)

    def corner(x: torch.Tensor) -> torch.Tensor:
        return function(x, *values[1:]).flatten()[:3]

    out, pull = vjp(corner, values[0])
    (rows,) = zip(*(pull(row) for row in torch.eye(len(out))), strict=True)
    assert_bitwise(jacrev(corner)(values[0]), torch.stack(rows), "jacobian")


@over_specs()
def test_forward_mode_is_refused(spec: Spec) -> None:
    """A derivative that is not there must not be zero; labels have none, and are given."""
    args = spec.samples[0].make()
    function = lambda x: spec.call(x, *args[1:])  # noqa: E731
    expected = function(args[0])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(args[0], torch.ones_like(args[0]))
        for x in (dual, dual.clone().requires_grad_()):
            if not expected.is_floating_point():
                assert torch.equal(function(x), expected)
                continue
            with pytest.raises(
                NotImplementedError, match=rf"^{spec.name}: no forward-mode derivative is offered; "
            ):
                function(x)
        assert_bitwise(function(args[0]), expected)  # without a tangent nothing is asked for
    if expected.is_floating_point():
        with pytest.raises(
            NotImplementedError, match=rf"^{spec.name}: no forward-mode derivative is offered; "
        ):
            jvp(function, args[:1], args[:1])


@over_specs(DIFFERENTIABLE)
def test_second_derivatives_are_refused(spec: Spec) -> None:
    function, values = function_of(spec, spec.samples[0].make())
    once = grad(lambda x: function(x, *values[1:]).square().sum())
    with pytest.raises(
        NotImplementedError, match=rf"^{spec.name}_backward: no gradient is offered; for second"
    ):
        grad(lambda x: once(x).sum())(values[0])
    with pytest.raises(NotImplementedError, match=rf"^{spec.name}(_backward)?: no forward-mode derivative"):
        jvp(once, values[:1], values[:1])


@over_specs(tuple(spec for spec in SPECS if not spec.differentiable))
def test_an_op_for_inference_refuses_grad(spec: Spec) -> None:
    args = spec.samples[0].make()
    if spec.call(*args).is_floating_point():
        with pytest.raises(NotImplementedError, match=rf"^{spec.name}: no gradient is offered; "):
            grad(lambda x: spec.call(x, *args[1:]).sum())(args[0])


@over_specs(DIFFERENTIABLE)
def test_grad_under_autocast_and_compiled(spec: Spec) -> None:
    function, values = function_of(spec, spec.samples[0].make())
    loss = grad(lambda x: function(x, *values[1:]).float().sum())
    with torch.autocast("cpu", torch.bfloat16):
        x = values[0].clone().requires_grad_()
        (expected,) = torch.autograd.grad(function(x, *values[1:]).float().sum(), x)
        assert_bitwise(loss(values[0]), expected, "gradient")
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_bitwise(compiled(values[0]), loss(values[0]), "gradient")


def test_per_example_gradients_of_a_model() -> None:
    torch.manual_seed(0)
    model = segnext_t(num_classes=3).eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    images, targets = torch.randn(2, 3, 32, 64), torch.randint(0, 3, (2, 32, 64))

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model, parameters, (image[None],))
        return torch.nn.functional.cross_entropy(logits, target[None])

    together = vmap(grad(loss), (None, 0, 0))(parameters, images, targets)
    for index in range(2):
        loss(dict(model.named_parameters()), images[index], targets[index]).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            torch.testing.assert_close(together[name][index], p.grad)
        model.zero_grad()
