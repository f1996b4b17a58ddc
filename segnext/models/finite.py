"""Refuses to read classes from logits that are not finite; finds tensors that are not, or that hold nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

WeightsOf = Callable[[], Mapping[str, Tensor]]


class NonFiniteError(ValueError):
    """Logits hold NaN or Inf, so that no class can be read from them."""


def expect_finite(logits: Tensor, what: str, weights: WeightsOf | None = None) -> None:
    """Raise unless all logits are finite: to argmax the NaN is the largest, but it is no class.

    Nothing is checked while a graph is traced or captured, because that cannot wait for a value.

    Args:
        logits: any tensor; on a GPU its sum is waited for.
        what: the model, for the message.
        weights: gives the model's tensors by name; the message names the first that is not finite.

    Raises:
        NonFiniteError: there are NaN or Inf; the message says how many, and where they came from.
    """
    if logits.is_meta or _in_graph(logits):
        return
    # The sum of finite numbers can overflow; a second look, which is rare, tells that apart.
    if math.isfinite(logits.sum(dtype=torch.float32).item()) or bool(logits.isfinite().all()):
        return
    bad = int((~logits.isfinite()).sum())
    raise NonFiniteError(
        f"{what}: logits must be finite, got {bad} of {logits.numel()} that are NaN or Inf; {_cause(weights)}"
    )


def non_finite(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the names of the floating tensors that hold NaN or Inf."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.is_meta and not bool(tensor.isfinite().all()):
            yield name


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the first name of `non_finite`; None without any."""
    return next(non_finite(tensors), None)


def first_without_values(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor on the meta device, which holds nothing to read or to write."""
    return next((name for name, tensor in tensors.items() if tensor.is_meta), None)


def expect_values(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise a ValueError if a model's tensors hold nothing to read or to write."""
    if (empty := first_without_values(tensors)) is not None:
        raise ValueError(f"{what}: model must have weights, got {empty} on the meta device; load some first")


def _in_graph(logits: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return logits.is_cuda and torch.cuda.is_current_stream_capturing()


def _cause(weights: WeightsOf | None) -> str:
    name = first_non_finite(weights()) if weights is not None else None
    if name is not None:
        return f"the weights hold NaN or Inf in {name}; take an earlier checkpoint"
    return "check the values of the images, or use float32 if the activations overflowed in a lower precision"
