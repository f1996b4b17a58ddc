"""Compares a backend's kernels of one op, forward and backward, with the definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from oracle.accuracy import assert_accurate, assert_gradient_accurate
from oracle.gradients import cast, random_grad, with_gradient
from segnext_kernels import use_backend
from segnext_kernels.spec import Spec
from tests.contract.cases import backward_of


def run(
    spec: Spec,
    args: tuple[Any, ...],
    function: Callable[..., torch.Tensor] | None = None,
    grad: torch.Tensor | None = None,
    backend: str = "cpu",
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return output and gradients of the op or of ``function``, for an incoming ``grad`` or a random one."""
    with use_backend(backend):
        fresh, leaves = with_gradient(spec, args)
        out = (function or spec.call)(*fresh)
        grad = random_grad(out) if grad is None else grad.to(out.dtype)
        return out.detach(), backward_of(out, leaves, grad) if leaves else []


def assert_right(spec: Spec, args: tuple[Any, ...], backend: str = "cpu") -> None:
    """Assert output and gradients by the rule of `oracle.accuracy`."""
    out, grads = run(spec, args, backend=backend)
    grad = random_grad(out)
    oracle, oracle_grads = run(spec, cast(args, torch.float64), spec.reference, grad)
    eager, eager_grads = run(spec, args, spec.reference, grad)
    assert_accurate(out, oracle, eager)
    for index, triple in enumerate(zip(grads, oracle_grads, eager_grads, strict=True)):
        assert_gradient_accurate(*triple, what=f"gradient {index}")
