"""One wording of input errors for all ops: ``<op>: <what> must be <expected>, got <actual>; <remedy>``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
            f"{op}: {name} must be float16, bfloat16, float32 or float64, got {_name(tensor.dtype)}"
        )
    if any(size == 0 for size in tensor.shape[1:]):
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
    if tensor is None and optional:
        return
    if not isinstance(tensor, torch.Tensor):
        got = "None" if tensor is None else type(tensor).__name__
        raise TypeError(f"{op}: {name} must be a tensor of shape {_axes(shape)}, got {got}{_with(remedy)}")
    matches = tensor.ndim == len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not matches:
        raise ValueError(f"{op}: {name} must be {_axes(shape)}, got {tuple(tensor.shape)}{_with(remedy)}")


def expect_like(op: str, name: str, tensor: torch.Tensor | None, like_name: str, like: torch.Tensor) -> None:
    """Same device and dtype as ``like``; None passes."""
    if tensor is None:
        return
    expect_device(op, name, tensor, like_name, like)
    if tensor.dtype != like.dtype and not _autocasting(like):
        raise TypeError(
            f"{op}: {name} must be {_name(like.dtype)} as {like_name}, got {_name(tensor.dtype)};"
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


def expect_choice(op: str, name: str, value: object, choices: Sequence[str]) -> None:
    """One of a few names."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be {' or '.join(map(repr, choices))}, got {value!r}")


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


def _autocasting(tensor: torch.Tensor) -> bool:
    # Under autocast mixed dtypes are the rule; the op's autocast rule unifies them.
    return torch.is_autocast_enabled(tensor.device.type)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
