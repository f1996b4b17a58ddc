"""Contract of every op: it works with PyTorch's fake tensors, autograd, autocast, compile, export and vmap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.library import opcheck
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from oracle.gradients import backward_arguments, random_grad, with_gradient
from oracle.inputs import LAYOUTS
from segnext_kernels import backend, native
from segnext_kernels.spec import Spec
from tests.contract.cases import (
    DIFFERENTIABLE,
    INFERENCE_ONLY,
    Case,
    assert_as_fake,
    assert_bitwise,
    backward_of,
    over,
    over_specs,
    strides,
    tensors,
)
from tests.contract.test_values import VIEWS

OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
FEW_ELEMENTS = 400  # in all differentiable inputs together: gradcheck evaluates the op twice per element


def backward_args(spec: Spec, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Return the backward operator, and the arguments that autograd calls it with."""
    return getattr(torch.ops.segnext_kernels, f"{spec.name}_backward").default, backward_arguments(spec, args)


def assert_fake_is_real(op: Any, args: tuple[Any, ...]) -> None:
    """Assert that shapes, dtypes, devices and strides from fake tensors are the real ones."""
    assert_as_fake(op, args, tensors(op(*args)))


@over()
def test_opcheck(case: Case) -> None:
    args = case.args()
    if case.sample is case.spec.samples[0]:
        args, _ = case.with_gradient(args)
        checks = OPCHECKS
    else:
        checks = OPCHECKS[:3]
    with backend.use_backend(case.backend):
        opcheck(case.spec.op, args, test_utils=checks)


@over_specs(DIFFERENTIABLE)
def test_opcheck_of_the_backward(spec: Spec) -> None:
    for sample in spec.samples:
        op, args = backward_args(spec, sample.make(**spec.saving))
        opcheck(op, args, test_utils=OPCHECKS if sample is spec.samples[0] else OPCHECKS[:3])


@over(dtypes=("fp32", "bf16"))
def test_fake_is_real(case: Case) -> None:
    with backend.use_backend(case.backend):
        assert_fake_is_real(case.spec.op, case.args())


@over(DIFFERENTIABLE, dtypes=("fp32", "bf16"), backward=True)
def test_fake_backward_is_real(case: Case) -> None:
    op, args = backward_args(case.spec, case.args())
    if case.backend != "auto" and backend.KERNELS[f"{case.spec.name}_backward"][case.backend].reason_against(
        *args
    ):
        pytest.skip(f"{case.backend} does not take these inputs")
    with backend.use_backend(case.backend):
        assert_fake_is_real(op, args)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@over(first_only=True)
def test_fake_is_real_for_strided_views(case: Case, view: Any) -> None:
    args = tree_map_only(torch.Tensor, view, case.args())
    case.run(*args)  # skips where the backend does not take them
    with backend.use_backend(case.backend):
        assert_fake_is_real(case.spec.op, args)


def _suits_gradcheck(case: Case) -> bool:
    _, leaves = case.with_gradient(case.args())
    is_small = 0 < sum(t.numel() for t in leaves) <= FEW_ELEMENTS
    return is_small and case.sample.name not in case.spec.without_derivative


@over_specs(DIFFERENTIABLE)
def test_an_input_is_small_enough_for_gradcheck(spec: Spec) -> None:
    cases = over([spec], dtypes=("fp64",), backward=True, where=_suits_gradcheck).args[1]
    backends = {case.backend for case in cases}
    assert "reference" in backends
    if native._C is not None:
        assert "cpu" in backends, "our own kernels are not checked"


@over(DIFFERENTIABLE, dtypes=("fp64",), backward=True, where=_suits_gradcheck)
def test_gradcheck(case: Case) -> None:
    args, leaves = case.with_gradient(case.args())

    def function(*values: torch.Tensor) -> torch.Tensor:
        fresh = iter(values)
        replaced = tree_map_only(torch.Tensor, lambda t: next(fresh) if t.requires_grad else t, args)
        return case.run(*replaced)

    # with the default tolerances, a gradient that is a thousandth too small would pass
    assert torch.autograd.gradcheck(function, leaves, atol=1e-7, rtol=1e-6)


@over_specs(DIFFERENTIABLE)
def test_gradient_only_where_asked(spec: Spec) -> None:
    """Each differentiable tensor alone gets the gradient that it gets among all."""
    args = spec.samples[0].make()
    full_args, leaves = with_gradient(spec, args)
    out = spec.call(*full_args)
    grad = random_grad(out)
    for index, expected in enumerate(backward_of(out, leaves, grad)):
        alone_args, alone = with_gradient(spec, args)
        for leaf in alone[:index] + alone[index + 1 :]:
            leaf.requires_grad_(False)
        assert_bitwise(backward_of(spec.call(*alone_args), [alone[index]], grad), [expected], "gradient")


def lowered(spec: Spec, args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Return the arguments that autocast passes to the kernel."""
    return tuple(
        tree_map_only(torch.Tensor, lambda t: t.to(dtype), a) if name in spec.low_precision else a
        for name, a in zip(spec.argument_names, args, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@over_specs()
def test_autocast_casts_what_it_says(spec: Spec, dtype: torch.dtype) -> None:
    """Results agree to the last bit, so a statistic or state that is cast by mistake would show."""
    args = spec.samples[0].make()
    low = lowered(spec, args, dtype)
    with torch.autocast("cpu", dtype):
        out, mixed = spec.call(*args), spec.call(*lowered(spec, args, dtype)[:1], *args[1:])
    assert_bitwise([out, mixed], [spec.call(*low)] * 2)
    if spec.low_precision:
        assert out.dtype == dtype


@over_specs(DIFFERENTIABLE)
def test_autocast_gradients_are_those_of_the_cast(spec: Spec) -> None:
    args, leaves = with_gradient(spec, spec.samples[0].make())
    with torch.autocast("cpu", torch.bfloat16):
        out = spec.call(*args)
    grad = random_grad(out)
    grads = backward_of(out, leaves, grad)
    assert all(g.dtype == torch.float32 for g in grads)
    args, leaves = with_gradient(spec, spec.samples[0].make())
    out = spec.call(*lowered(spec, args, torch.bfloat16))
    assert_bitwise(grads, backward_of(out, leaves, grad), "gradient")


@over_specs()
def test_autocast_leaves_float64_alone(spec: Spec) -> None:
    args = spec.samples[0].make(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        out = spec.call(*args)
    assert_bitwise(out, spec.call(*args))


def _forward_and_gradients(function: Any, spec: Spec, args: tuple[Any, ...]) -> list[torch.Tensor]:
    args, leaves = with_gradient(spec, args)
    out = function(*args)
    return [out, *(backward_of(out, leaves, random_grad(out)) if leaves else [])]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@over_specs()
def test_compile_in_one_graph(spec: Spec, layout: torch.memory_format) -> None:
    """Forward and backward equal eager's, for a first H and W, and for others without retracing."""
    torch._dynamo.reset()
    compiled = torch.compile(spec.call, fullgraph=True, dynamic=True, backend="aot_eager")
    for changed in ({}, spec.resized):
        args = spec.samples[0].make(layout=layout, **changed)
        expected = _forward_and_gradients(spec.call, spec, args)
        with torch._dynamo.config.patch(error_on_recompile=True):
            actual = _forward_and_gradients(compiled, spec, args)
        assert_bitwise(actual, expected)
        assert strides(actual[0]) == strides(expected[0])


@over_specs()
def test_export(spec: Spec) -> None:
    """torch.export takes every tensor size as dynamic; the program runs at another H and W."""
    args, other = spec.samples[0].make(), spec.samples[0].make(**spec.resized)
    module = _Module(spec)
    auto = tree_map_only(
        torch.Tensor, lambda t: {axis: torch.export.Dim.AUTO for axis in range(t.ndim)}, args
    )
    auto = tree_map_only((int, float, str, bool), lambda _: None, auto)
    program = torch.export.export(module, args, dynamic_shapes={"args": auto})
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert f"segnext_kernels.{spec.name}.default" in names
    assert_bitwise(program.module()(*args), spec.call(*args))
    assert_bitwise(program.module()(*other), spec.call(*other))


class _Module(torch.nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, *args: Any) -> torch.Tensor:
        return self.spec.call(*args)


@pytest.mark.parametrize("batched", ["first", "all"])
@over_specs()
def test_vmap_is_a_loop(spec: Spec, batched: str) -> None:
    """vmap runs over the first argument alone, and over all tensors at once."""
    versions = [spec.samples[0].make(generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    places = spec.argument_names[:1] if batched == "first" else spec.argument_names
    args: list[Any] = list(versions[0])
    in_dims: list[Any] = [None] * len(args)
    for i, name in enumerate(spec.argument_names):
        if name not in places:
            continue
        if isinstance(args[i], torch.Tensor):
            args[i], in_dims[i] = torch.stack([v[i] for v in versions], 1), 1
        elif tensors(args[i]):
            args[i] = [torch.stack(parts) for parts in zip(*(v[i] for v in versions), strict=True)]
            in_dims[i] = [0] * len(args[i])
    actual = torch.func.vmap(spec.call, tuple(in_dims))(*args)
    loop = [
        spec.call(*(v[i] if n in places else versions[0][i] for i, n in enumerate(spec.argument_names)))
        for v in versions
    ]
    assert_bitwise(actual, torch.stack(loop))


@over_specs(DIFFERENTIABLE)
def test_double_backward_is_a_clear_error(spec: Spec) -> None:
    args, leaves = with_gradient(spec, spec.samples[0].make())
    grads = torch.autograd.grad(spec.call(*args).square().sum(), leaves, create_graph=True)
    with pytest.raises(
        NotImplementedError, match=rf"^{spec.name}_backward: no gradient is offered; for second"
    ):
        torch.autograd.grad(grads[0].sum(), leaves)


@over_specs(INFERENCE_ONLY)
def test_inference_op_never_drops_a_gradient_silently(spec: Spec) -> None:
    args = tree_map_only(torch.Tensor, torch.Tensor.requires_grad_, spec.samples[0].make())
    out = spec.call(*args)
    if out.is_floating_point():
        with pytest.raises(NotImplementedError, match=rf"^{spec.name}: no gradient is offered; "):
            out.sum().backward()
    else:
        assert not out.requires_grad


@over_specs()
def test_inference_mode(spec: Spec) -> None:
    args = spec.samples[0].make()
    with torch.inference_mode():
        out = spec.call(*args)
    assert_bitwise(out, spec.call(*args))


@over_specs()
def test_flops_are_those_of_the_definition(spec: Spec) -> None:
    """torch.utils.flop_counter counts the same for the plain PyTorch of the definition."""
    args = spec.samples[0].make()
    counts = []
    for function in (spec.call, spec.reference):
        with FlopCounterMode(display=False) as counter:
            function(*args)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == spec.flops(args)


@over_specs(DIFFERENTIABLE)
def test_flops_of_the_backward_are_twice_the_forwards(spec: Spec) -> None:
    """Recomputation is not counted. (PyTorch counts a depthwise weight's gradient as a dense one's.)"""
    args, leaves = with_gradient(spec, spec.samples[0].make())
    out = spec.call(*args)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(out, leaves, random_grad(out))
    assert counter.get_total_flops() == 2 * spec.flops(args)


@over_specs()
def test_bytes_are_all_tensors_once(spec: Spec) -> None:
    args = spec.samples[0].make(torch.bfloat16)
    out = spec.call(*args)
    assert spec.bytes_moved(args, out) == sum(t.nbytes for t in (*tensors(args), out))
    for sample in spec.model_shapes:
        shapes = [tuple(t.shape) for t in tensors(sample.make())]
        assert shapes[0][0] == 1 and len(shapes) <= len(tensors(args))
