"""One wording of input errors for all ops: ``<op>: <what> must be <expected>, got <actual>; <remedy>``."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels.kernel import dtype_name
from segnext_kernels.memory_format import accumulator_dtype

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _with(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""


def _axes(shape: Sequence[int | str]) -> str:
    return "(" + ", ".join(str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"


def expect_floating(op: str, name: str, tensor: object, ndim: int, axes: str) -> None:
    """A floating-point tensor of ``ndim`` axes named ``axes``, none of size zero but the batch."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a tensor of shape {axes}, got {type(tensor).__name__}")
    if tensor.ndim != ndim:
        raise ValueError(f"{op}: {name} must be {axes}, got shape {tuple(tensor.shape)}")
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f"{op}: {name} must be float16, bfloat16, float32 or float64, got {dtype_name(tensor.dtype)}"
        )
    _expect_dense(op, name, tensor)
    if 0 in tensor.shape[1:]:
        raise ValueError(
            f"{op}: {name} must have no empty axis but the batch, got shape {tuple(tensor.shape)}"
        )


def expect_shape(
    op: str,
    name: str,
    tensor: torch.Tensor | None,
    shape: Sequence[int | str],
    remedy: str = "",
    optional: bool = False,
) -> None:
    """A tensor of exact sizes; a string in ``shape`` names an axis of any size. None passes if optional."""
    if isinstance(tensor, torch.Tensor):
        if tensor.shape == shape or _fits(tensor.shape, shape):
            _expect_dense(op, name, tensor)
            return
    elif tensor is None and optional:
        return
    else:
        got = "None" if tensor is None else type(tensor).__name__
        raise TypeError(f"{op}: {name} must be a tensor of shape {_axes(shape)}, got {got}{_with(remedy)}")
    raise ValueError(f"{op}: {name} must be {_axes(shape)}, got {tuple(tensor.shape)}{_with(remedy)}")


def _expect_dense(op: str, name: str, tensor: torch.Tensor) -> None:
    """Refuse sparse, mkldnn and jagged tensors, which have no strides."""
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{op}: {name} must be a dense tensor, got layout {str(tensor.layout).removeprefix('torch.')};"
            " convert it with .to_dense()"
        )


def _fits(shape: torch.Size, wanted: Sequence[int | str]) -> bool:
    if len(shape) != len(wanted):
        return False
    for have, want in zip(shape, wanted, strict=True):  # noqa: SIM110 (all() takes twice as long)
        if not isinstance(want, str) and have != want:
            return False
    return True


def expect_like(op: str, name: str, tensor: torch.Tensor | None, like_name: str, like: torch.Tensor) -> None:
    """Same device and dtype as ``like``; None passes."""
    if tensor is None:
        return
    expect_device(op, name, tensor, like_name, like)
    if tensor.dtype != like.dtype and not autocasting(like):
        raise TypeError(
            f"{op}: {name} must be {dtype_name(like.dtype)} as {like_name}, got {dtype_name(tensor.dtype)};"
            f" convert it with .to({like_name}.dtype), or run under torch.autocast"
        )


def expect_device(
    op: str, name: str, tensor: torch.Tensor | None, like_name: str, like: torch.Tensor
) -> None:
    """Same device as ``like``; None passes."""
    if tensor is not None and tensor.device != like.device:
        raise ValueError(
            f"{op}: {name} must be on {like.device} as {like_name}, got {tensor.device}; move it with .to()"
        )


def expect_precise(op: str, name: str, tensor: torch.Tensor, like_name: str, like: torch.Tensor) -> None:
    """Same device as ``like``, and its dtype or that of its accumulators."""
    expect_device(op, name, tensor, like_name, like)
    if tensor.dtype not in _precise(like):
        raise TypeError(
            f"{op}: {name} must be {_names(like, ' or ')} as {like_name}, got {dtype_name(tensor.dtype)};"
            " convert it with .to()"
        )


def expect_affine(op: str, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> None:
    """A normalisation's (C,) weight and bias: both in x's dtype, or both in that of its accumulators."""
    for name, tensor in (("weight", weight), ("bias", bias)):
        expect_shape(op, name, tensor, (x.shape[1],), f"x is {tuple(x.shape)}")
        expect_device(op, name, tensor, "x", x)
    if weight.dtype not in _precise(x) or bias.dtype != weight.dtype:
        raise TypeError(
            f"{op}: weight and bias must both be {_names(x, ' or both ')} as x,"
            f" got {dtype_name(weight.dtype)} and {dtype_name(bias.dtype)}; convert them with .to()"
        )


def expect_choice(op: str, name: str, value: object, choices: Sequence[str]) -> None:
    """One of a few names."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def expect_integer(
    op: str, name: str, value: Any, least: int = -(2**63), expected: str = "an integer of 64 bits"
) -> int:
    """An integer of any kind, also of NumPy or a tensor, from ``least`` on; ``expected`` says so in words."""
    if not isinstance(value, (int, torch.SymInt)):
        try:
            value = operator.index(value)
        except TypeError:
            kind = expected if "integer" in expected else f"an integer, {expected}"
            raise TypeError(f"{op}: {name} must be {kind}, got {_shown(value)}") from None
    if not least <= value < 2**63:
        raise ValueError(f"{op}: {name} must be {expected}, got {value}")
    return value


def expect_number(op: str, name: str, value: Any, most: float = sys.float_info.max) -> float:
    """A number from 0 to ``most``, of any kind."""
    expected = "a finite number, at least 0" if most == sys.float_info.max else f"in [0, {most:g}]"
    if not isinstance(value, (float, torch.SymFloat)):
        try:
            value = value if isinstance(value, str) else float(value)
            value + 0.0
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise TypeError(f"{op}: {name} must be {expected}, got {_shown(value)}") from None
    if not 0 <= value <= most:
        raise ValueError(f"{op}: {name} must be {expected}, got {value}")
    return value


def expect_flag(op: str, name: str, value: Any) -> bool:
    """True or False, or the same as a number; "False" is neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) or not (value == 0 or value == 1):
        raise TypeError(f"{op}: {name} must be True or False, got {_shown(value)}")
    return bool(value)


def expect_tensors(op: str, name: str, values: Any) -> list[Any]:
    """A sequence, whose elements are checked one by one."""
    try:
        return list(values)
    except TypeError:
        raise TypeError(f"{op}: {name} must be a list of tensors, got {_shown(values)}") from None


def _shown(value: Any) -> str:
    """A value in a message: as it is if it is short and of one line, else its type."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else type(value).__name__


def expect_size(op: str, size: object, name: str = "size") -> tuple[int, int]:
    """(H, W), both at least 1."""
    if not isinstance(size, (tuple, list, torch.Size)) or len(size) != 2:
        raise ValueError(f"{op}: {name} must be (H, W), got {size!r}")
    height, width = size
    if not all(isinstance(side, (int, torch.SymInt)) for side in size):
        raise TypeError(f"{op}: {name} must be two integers, got {(height, width)}")
    if height < 1 or width < 1:
        raise ValueError(f"{op}: {name} must be at least (1, 1), got {(height, width)}")
    return height, width


def _precise(x: torch.Tensor) -> tuple[torch.dtype, ...]:
    return tuple(dict.fromkeys((accumulator_dtype(x.dtype), x.dtype)))


def _names(x: torch.Tensor, between: str) -> str:
    return between.join(map(dtype_name, _precise(x)))


def autocasting(tensor: torch.Tensor) -> bool:
    """Whether mixed dtypes are the rule, which an op's autocast rule unifies; never on meta, where asking raises."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)
