"""Computes gradients of an op, by its own backward or by PyTorch's autograd through its definition.

The other functions in `__all__` belong to the self-check, which ships with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from segnext_kernels.self_check.gradients import (
    Recorder,
    backward_arguments,
    cast,
    random_grad,
    with_gradient,
)
from segnext_kernels.spec import Spec

__all__ = ["Recorder", "backward_arguments", "cast", "gradients_of", "random_grad", "with_gradient"]


def gradients_of(
    function: Callable[..., torch.Tensor], spec: Spec, args: tuple[Any, ...], grad: torch.Tensor
) -> list[torch.Tensor]:
    """Return the gradients of the op's differentiable tensors through ``function``, for an incoming ``grad``."""
    fresh, leaves = with_gradient(spec, args)
    out = function(*fresh)
    return list(torch.autograd.grad(out, leaves, grad.to(out.dtype)))
