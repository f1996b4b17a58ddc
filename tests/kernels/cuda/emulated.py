"""Compares CUDA kernels on the emulator, forward and backward, with their op's definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from oracle.accuracy import assert_accurate, assert_gradient_accurate, assert_labels
from oracle.gradients import backward_arguments, cast
from segnext_kernels import use_backend
from segnext_kernels.backend import KERNELS
from segnext_kernels.spec import Spec
from tests.contract.cases import assert_as_fake, tensors
from tests.cuda_emulator.emulation import Emulator

Function = Callable[..., Any]


def kernel(op: str, backend: str = "cuda") -> Function:
    """Return what a backend runs for an op, or for its backward."""
    return KERNELS[op][backend].run


def assert_forward(emulator: Emulator, spec: Spec, args: tuple[Any, ...]) -> torch.Tensor:
    """Assert the output by the rule of `oracle.accuracy`; all schedules give the same bits and the fake's strides."""
    outputs = tensors(emulator.run(kernel(spec.name), *args))
    assert_as_fake(spec.op, args, outputs)
    out, *_ = outputs
    if out.is_floating_point():
        definition = kernel(spec.name, "reference")
        oracle, eager = definition(*cast(args, torch.float64)), definition(*args)
        assert_accurate(out, tensors(oracle)[0], tensors(eager)[0])
    else:
        assert_labels(out, *args)
    return out


def assert_backward(
    emulator: Emulator, spec: Spec, args: tuple[Any, ...], definition: Function | None = None
) -> list[torch.Tensor]:
    """Assert all gradients by the rule of `oracle.accuracy`; all schedules give the same bits and the fake's strides.

    Args:
        args: the backward's arguments, the incoming gradient first.
        definition: replaces the backward's own definition.
    """
    op = f"{spec.name}_backward"
    grads = tensors(emulator.run(kernel(op), *args))
    assert_as_fake(getattr(torch.ops.segnext_kernels, op).default, args, grads)
    definition = definition or kernel(op, "reference")
    oracle, eager = definition(*cast(args, torch.float64)), definition(*args)
    for index, triple in enumerate(zip(grads, tensors(oracle), tensors(eager), strict=True)):
        assert_gradient_accurate(*triple, what=f"gradient {index}")
    return grads


def assert_right(
    emulator: Emulator, spec: Spec, args: tuple[Any, ...], grad: torch.Tensor | None = None
) -> torch.Tensor:
    """Do `assert_forward`, and `assert_backward` if the op has a CUDA kernel of its own for that.

    Args:
        grad: the incoming gradient, of any strides; by default a random one as the op's autograd passes it.
    """
    out = assert_forward(emulator, spec, args)
    if spec.differentiable and not spec.backward_of_products:
        with use_backend("reference"):
            found, *saved = backward_arguments(spec, args)
        assert_backward(emulator, spec, (found if grad is None else grad, *saved))
    return out


def in_larger_images(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Turn the first argument's images, and all images of that size, into `poisoned_view`s."""
    size = args[0].shape[2:]
    return tuple(
        tree_map_only(
            torch.Tensor, lambda t: poisoned_view(t) if t.ndim == 4 and t.shape[2:] == size else t, a
        )
        for a in args
    )


def poisoned_view(x: torch.Tensor) -> torch.Tensor:
    """Copy ``x`` into the middle of a larger image of NaN, which must not be read."""
    n, c, h, w = x.shape
    memory_format = torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
    around = torch.full((n, c + 16, h + 2, w + 3), torch.nan, dtype=x.dtype)
    view = around.contiguous(memory_format=memory_format)[:, 8 : 8 + c, 1 : 1 + h, 2 : 2 + w]
    view.copy_(x)
    return view
