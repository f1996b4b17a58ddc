"""One op's CUDA kernels on the emulator, forward and backward, against its definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from oracle.accuracy import assert_accurate, assert_gradient_accurate
from oracle.gradients import cast, random_grad
from segnext_kernels.memory_format import as_format_of
from tests.cuda_emulator.emulation import Emulator


def assert_forward(
    emulator: Emulator,
    kernel: Callable[..., torch.Tensor],
    reference: Callable[..., torch.Tensor],
    args: tuple[Any, ...],
) -> torch.Tensor:
    """The output, the same in every schedule, by the rule of `oracle.accuracy`."""
    out = emulator.run(kernel, *args)
    assert_accurate(out, reference(*cast(args, torch.float64)), reference(*args))
    return out


def assert_backward(
    emulator: Emulator,
    kernel: Callable[..., list[torch.Tensor]],
    reference: Callable[..., list[torch.Tensor]],
    args: tuple[Any, ...],
    grad: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """All gradients for an incoming ``grad``, or a random one."""
    if grad is None:
        grad = as_format_of(random_grad(args[0]), args[0])  # as the ops' autograd passes it
    grads = emulator.run(kernel, grad, *args)
    oracle = reference(*cast((grad, *args), torch.float64))
    for index, triple in enumerate(zip(grads, oracle, reference(grad, *args), strict=True)):
        assert_gradient_accurate(*triple, what=f"gradient {index}")
    return grads


def poisoned_view(x: torch.Tensor) -> torch.Tensor:
    """The values of ``x`` inside a larger image of NaN: what lies outside must not be read."""
    n, c, h, w = x.shape
    memory_format = torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
    around = torch.full((n, c + 16, h + 2, w + 3), torch.nan, dtype=x.dtype)
    view = around.contiguous(memory_format=memory_format)[:, 8 : 8 + c, 1 : 1 + h, 2 : 2 + w]
    view.copy_(x)
    return view
