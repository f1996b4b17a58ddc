"""Says which tensors may become weights: numbers of the right kind, all finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segnext.one_line import one_line

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def expect_weights(
    what: str, given: Mapping[str, Any], own: Mapping[str, Tensor], assign: bool = False
) -> None:
    """Raise unless each given tensor that a model will take is of the kind of the model's own, and finite there.

    Weights are floating. A counter (``num_batches_tracked``) may be an integer or floating, since whole checkpoints are
    converted to half precision. A variance is not negative.

    Args:
        what: begins the message, with the place that the tensors come from.
        given: names to tensors; names that are not in `own` are not looked at.
        own: the model's names to its tensors.
        assign: the model keeps the given tensors, and converts none to a dtype of its own.

    Raises:
        ValueError: one is no dense tensor, holds integers, bools or complex numbers, NaN or infinity, negative
            variances, or numbers that the model's dtype cannot hold.
    """
    non_finite: list[tuple[str, str, int, int]] = []
    for name in (name for name in own if name in given):
        tensor = given[name]
        kind = _unfit(tensor, own[name])
        if kind is not None:
            expected = "floating numbers" if own[name].is_floating_point() else "integers"
            raise ValueError(
                f"{what}: {one_line(name)} must be a dense tensor of {expected}, got {kind}; "
                "convert it where it was saved, or save float32"
            )
        # A subclass may be distributed, or have no values at all.
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.is_meta:
            continue
        if _is_finite(tensor):
            _expect_range(what, name, tensor, own[name].dtype if not assign else tensor.dtype)
            continue
        bad = ~torch.isfinite(tensor)
        first = "NaN" if bool(tensor.isnan().any()) else "infinity"
        non_finite.append((name, first, int(bad.sum()), tensor.numel()))
    if non_finite:
        name, first, count, size = non_finite[0]
        others = f" and {len(non_finite) - 1} more tensors" if len(non_finite) > 1 else ""
        raise ValueError(
            f"{what}: weights must be finite, got {first} in {one_line(name)} "
            f"({count:,} of its {size:,} values){others}; the training that saved them diverged: take an earlier one"
        )


def _expect_range(what: str, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise if a finite tensor holds a negative variance, or numbers that `dtype` makes infinite or wraps around."""
    if name.endswith("running_var") and bool((tensor < 0).any()):
        raise ValueError(
            f"{what}: variances must be 0 or more, got {tensor.min().item():.4g} in {one_line(name)}; "
            "they are of no BatchNorm: fetch the file again"
        )
    if dtype.is_floating_point:
        largest = torch.finfo(dtype).max
        narrows = tensor.is_floating_point() and torch.finfo(tensor.dtype).max > largest
        fits = not narrows or _is_finite(tensor.to(dtype))
    else:
        largest = torch.iinfo(dtype).max
        fits = not tensor.is_floating_point() or bool((tensor.abs() < largest).all())
    if not fits:
        raise ValueError(
            f"{what}: {one_line(name)} must hold numbers of {str(dtype).removeprefix('torch.')} as in this model, at "
            f"most {largest:.4g}, got {tensor.abs().max().item():.4g}; load it into a model of a wider dtype"
        )


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _unfit(tensor: Any, own: Tensor) -> str | None:
    """Return in words why a tensor cannot replace the model's own; None if it can."""
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    if tensor.is_meta and not own.is_meta:
        return "a tensor on the meta device, which has no values"
    if tensor.layout != torch.strided:
        return f"a sparse one ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized:
        return f"a quantised one ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_neg() or tensor.is_conj():
        return "a view that waits to be conjugated or negated"
    if tensor.dtype not in FLOATING and (own.is_floating_point() or tensor.dtype not in INTEGER):
        return str(tensor.dtype).removeprefix("torch.")
    return None
