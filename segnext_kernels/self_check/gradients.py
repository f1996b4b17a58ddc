"""Gradients of an op by autograd, and what autograd hands to its backward: for the self-check, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from segnext_kernels.spec import Spec


def cast(args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments with all floating-point tensors in another dtype."""
    return tuple(
        tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, a) for a in args
    )


def with_gradient(spec: Spec, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
    """Detached arguments, of which the differentiable ones require a gradient, and a list of these."""

    def detached(value: Any, is_wanted: bool) -> Any:
        return tree_map_only(torch.Tensor, lambda t: t.detach().requires_grad_(is_wanted), value)

    named = zip(spec.argument_names, args, strict=True)
    fresh = [detached(value, name in spec.differentiable) for name, value in named]
    return tuple(fresh), [t for t in tree_leaves(fresh) if isinstance(t, torch.Tensor) and t.requires_grad]


def random_grad(out: torch.Tensor) -> torch.Tensor:
    """An incoming gradient for ``out``; its random numbers are not those of the samples."""
    values = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return values.to(out.device, out.dtype)


class Recorder(TorchDispatchMode):
    """Keeps the arguments of every call of one operator inside a ``with`` block."""

    def __init__(self, op: Any) -> None:
        super().__init__()
        self.op = op
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self.op:
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


def backward_arguments(
    spec: Spec, args: tuple[Any, ...], grad_of: Callable[[torch.Tensor], torch.Tensor] = random_grad
) -> tuple[Any, ...]:
    """The arguments that autograd calls the op's backward with, detached.

    Args:
        grad_of: makes the incoming gradient for an output.
    """
    fresh, leaves = with_gradient(spec, args)
    with Recorder(getattr(torch.ops.segnext_kernels, f"{spec.name}_backward").default) as recorder:
        out = spec.call(*fresh)
        torch.autograd.grad(out, leaves, grad_of(out))
    (call,) = recorder.calls
    return tuple(tree_map_only(torch.Tensor, torch.Tensor.detach, a) for a in call)
