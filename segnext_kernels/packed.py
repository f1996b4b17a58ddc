"""Inference on a CPU with weights packed once: what a deployed model is made of.

A layer here packs its weights for this machine's instruction set when it is made and writes its result into a
tensor the caller gives, so that a model may plan its memory. All tensors are (N, C, H, W) in channels_last,
float32 or bfloat16, on the CPU; there is no autograd. What does not fit a layer is a ValueError or TypeError, since
the kernels take sizes on trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from segnext_kernels import checks, native
from segnext_kernels.kernel import dtype_name, dtype_names
from segnext_kernels.memory_format import has_inner_channels
from segnext_kernels.ops.channel_norm import compiled as norm
from segnext_kernels.ops.conv2d_act import compiled as conv2d
from segnext_kernels.ops.conv2d_act.reference import output_size
from segnext_kernels.ops.conv_ffn import compiled as conv_ffn
from segnext_kernels.ops.conv_ffn.op import check as check_ffn
from segnext_kernels.ops.group_norm_act import compiled as group_norm
from segnext_kernels.ops.msca_block import compiled as msca_block
from segnext_kernels.ops.msca_block.op import check as check_block
from segnext_kernels.ops.nmf2d import compiled as nmf
from segnext_kernels.ops.nmf2d.op import EPS
from segnext_kernels.ops.resize_sum import compiled as resize

DTYPES = native.INFERENCE_DTYPES
FLOAT32 = (torch.float32,)


class TooLarge(ValueError):
    """Weights of more or larger strips than the CPU kernels take; the ops of `segnext_kernels` take them."""


def unavailable() -> str | None:
    """Why packed inference does not work here; None where it does."""
    return native.missing("cpu")


class PackedConv2d:
    """A dense convolution with bias and activation.

    Args:
        weight: (Co, C, Kh, Kw), float32.
        bias: (Co,), float32, or None.
        dtype: of the input: the products are taken in it.
        stride, padding: of both axes.
        activation: "none", "relu" or "gelu".
    """

    NAME = "packed conv2d"

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        stride: int = 1,
        padding: int = 0,
        activation: str = "none",
    ) -> None:
        _expect(self.NAME, "weight", weight, ("Co", "C", "Kh", "Kw"), FLOAT32)
        if bias is not None:
            _expect(self.NAME, "bias", bias, weight.shape[:1], FLOAT32)
        if dtype not in DTYPES:
            raise TypeError(f"{self.NAME}: dtype must be {dtype_names(DTYPES)}, got {dtype_name(dtype)}")
        stride = checks.expect_integer(self.NAME, "stride", stride, 1, "at least 1")
        padding = checks.expect_integer(self.NAME, "padding", padding, 0, "at least 0")
        checks.expect_choice(self.NAME, "activation", activation, tuple(conv2d.ACTS))
        self.shape, self.dtype, self.stride, self.padding = weight.shape, dtype, stride, padding
        self.activation, self.packed = activation, conv2d.pack(weight, bias, dtype)

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """(N, C, H, W) of the layer's dtype, any strides, into ``out`` (N, Co, Ho, Wo), either dtype."""
        _expect(self.NAME, "x", x, ("N", self.shape[1], "H", "W"), (self.dtype,))
        size = output_size(x.shape, self.shape, self.stride, self.padding)
        _expect_out(self.NAME, out, (x.shape[0], self.shape[0], *size), DTYPES, apart_from={"x": x})
        kernel = (self.shape[2], self.shape[3])
        return conv2d.run(x, self.packed, kernel, self.stride, self.padding, self.activation, out)


class PackedMscaBlock:
    """`segnext_kernels.msca_block`; the weights are its arguments after x, in its dtype."""

    NAME = "packed msca_block"

    def __init__(self, weights: Sequence[Any]) -> None:
        self.channels, self.dtype = _width_and_dtype(self.NAME, "proj_in_weight", weights[0])
        x = torch.empty((1, self.channels, 1, 1), dtype=self.dtype, device="cpu")
        check_block(self.NAME, x, weights)
        if (reason := msca_block.CPU.reason_against(x, *weights)) is not None:
            raise TooLarge(f"{self.NAME}: {reason}")
        self.packed = msca_block.pack(weights)

    def __call__(self, x: Tensor, out: Tensor, workspace: Tensor) -> Tensor:
        """``workspace`` has `workspace_elements(x.shape)` elements of x's dtype; none of the three may overlap."""
        _expect(self.NAME, "x", x, ("N", self.channels, "H", "W"), (self.dtype,))
        _expect(self.NAME, "workspace", workspace, ("elements",), (self.dtype,))
        _expect_out(self.NAME, out, x.shape, (self.dtype,), apart_from={"x": x, "workspace": workspace})
        _expect_apart(self.NAME, "workspace", workspace, "x", x)
        needed = workspace_elements(x.shape)
        if workspace.numel() < needed or not workspace.is_contiguous():
            raise ValueError(
                f"{self.NAME}: workspace must be contiguous with at least {needed} elements for x of shape"
                f" {tuple(x.shape)}, got {workspace.numel()}; see workspace_elements"
            )
        return msca_block.run(x, self.packed, workspace, out)


class PackedConvFfn:
    """`segnext_kernels.conv_ffn` with the residual; the weights are its arguments after x, in its dtype."""

    NAME = "packed conv_ffn"

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.hidden, self.dtype = _width_and_dtype(self.NAME, "fc1_weight", weights[0])
        self.channels = weights[0].shape[1]
        x = torch.empty((1, self.channels, 1, 1), dtype=self.dtype, device="cpu")
        check_ffn(self.NAME, x, weights, residual=True)
        self.packed = conv_ffn.pack(weights)

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """``out`` must not overlap x."""
        _expect(self.NAME, "x", x, ("N", self.channels, "H", "W"), (self.dtype,))
        _expect_out(self.NAME, out, x.shape, (self.dtype,), apart_from={"x": x})
        return conv_ffn.run(x, self.packed, self.hidden, True, out)


def workspace_elements(shape: torch.Size) -> int:
    """Elements that `PackedMscaBlock` needs for an input of this shape."""
    return msca_block.workspace_elements(shape)


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> Tensor:
    """LayerNorm over C; weight and bias (C,) in float32; ``out`` may be x."""
    op = "packed channel_norm"
    _expect_rows(op, "x", x)
    for name, tensor in (("weight", weight), ("bias", bias)):
        _expect(op, name, tensor, x.shape[1:2], FLOAT32)
        if not tensor.is_contiguous():
            raise ValueError(f"{op}: {name} must be contiguous, got strides {tensor.stride()}")
    _expect_out(op, out, x.shape, (x.dtype,), may_be={"x": x})
    return norm.run(x, weight, bias, eps, out)


def resize_sum(base: Tensor, others: Sequence[Tensor], out: Tensor) -> Tensor:
    """``base`` (N, C, H, W) plus every other (N, C, h, w) resized bilinearly to its size; ``out`` may be base."""
    op = "packed resize_sum"
    _expect_rows(op, "base", base)
    for other in others:
        _expect_rows(op, "others", other, (*base.shape[:2], "h", "w"), (base.dtype,))
    if (reason := resize.CPU.reason_against(base, others)) is not None:
        raise ValueError(f"{op}: {reason}")
    resized = {f"others[{i}]": other for i, other in enumerate(others)}
    _expect_out(op, out, base.shape, (base.dtype,), apart_from=resized, may_be={"base": base})
    return resize.run(base, others, out)


def nmf2d(x: Tensor, bases: Tensor, steps: int, projection: Tensor, out: Tensor) -> Tensor:
    """The 1x1 convolution ``projection`` of `segnext_kernels.nmf2d` over the pixels of x (N, D, H, W).

    The result has rank R, so it is enough to project the bases: D P R multiply-adds instead of D P H W.

    Args:
        bases: (1, D, R), float32.
        projection: (P, D), float32.
        out: (N, P, H, W).
    """
    op = "packed nmf2d"
    _expect_rows(op, "x", x)
    d = x.shape[1]
    _expect(op, "bases", bases, (1, d, "R"), FLOAT32)
    _expect(op, "projection", projection, ("P", d), FLOAT32)
    steps = checks.expect_integer(op, "steps", steps, 0, "at least 0")
    shape = (x.shape[0], projection.shape[0], *x.shape[2:])
    _expect_out(op, out, shape, (x.dtype,), apart_from={"x": x})
    # a view, or the result would be written into a copy
    nmf.run(
        x.flatten(2),
        bases,
        steps,
        EPS,
        out.view(*out.shape[:2], x.shape[2] * x.shape[3]),
        projection=projection,
    )
    return out


def group_norm_act(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, residual: Tensor | None, out: Tensor
) -> Tensor:
    """`segnext_kernels.group_norm_act` with ReLU; weight and bias in float32; ``out`` may be x."""
    op = "packed group_norm_act"
    _expect_rows(op, "x", x)
    for name, tensor in (("weight", weight), ("bias", bias)):
        _expect(op, name, tensor, x.shape[1:2], FLOAT32)
    groups = checks.expect_integer(op, "groups", groups, 1, "a divisor of x's channels")
    if x.shape[1] % groups:
        raise ValueError(f"{op}: groups must divide the {x.shape[1]} channels of x, got {groups}")
    if residual is not None:
        _expect(op, "residual", residual, x.shape, (x.dtype,))
    given = {"x": x} if residual is None else {"x": x, "residual": residual}
    _expect_out(op, out, x.shape, (x.dtype,), may_be=given)
    return group_norm.run(native.call_cpu, x, groups, weight, bias, eps, residual, "relu", out)


def _expect(
    op: str, name: str, tensor: Tensor, shape: Sequence[int | str], dtypes: Sequence[torch.dtype]
) -> None:
    """A tensor on the CPU, of a shape as in `checks.expect_shape` and one of the dtypes."""
    checks.expect_shape(op, name, tensor, shape)
    if not tensor.is_cpu:
        raise ValueError(f"{op}: {name} must be on cpu, got {tensor.device}; move it with .cpu()")
    if tensor.dtype not in dtypes:
        wanted = " or ".join(map(dtype_name, dtypes))
        raise TypeError(
            f"{op}: {name} must be {wanted}, got {dtype_name(tensor.dtype)}; convert it with .to()"
        )


def _expect_rows(
    op: str,
    name: str,
    x: Tensor,
    shape: Sequence[int | str] = ("N", "C", "H", "W"),
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> None:
    """`_expect`, and channels side by side."""
    _expect(op, name, x, shape, dtypes)
    if not has_inner_channels(x):
        raise ValueError(
            f"{op}: {name} must be channels_last, got strides {x.stride()};"
            " use .contiguous(memory_format=torch.channels_last)"
        )


def _expect_out(
    op: str,
    out: Tensor,
    shape: Sequence[int],
    dtypes: Sequence[torch.dtype],
    apart_from: Mapping[str, Tensor] = MappingProxyType({}),
    may_be: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """A result's place: of this shape, in channels_last without gaps, and apart from inputs but those it may be."""
    _expect(op, "out", out, shape, dtypes)
    if not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            f"{op}: out must be channels_last without gaps, got shape {tuple(out.shape)} with strides"
            f" {out.stride()}"
        )
    for name, tensor in apart_from.items():
        _expect_apart(op, "out", out, name, tensor)
    for name, tensor in may_be.items():
        if tensor.data_ptr() != out.data_ptr() or tensor.stride() != out.stride():
            _expect_apart(op, "out", out, name, tensor)


def _expect_apart(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.numel() and other.numel():
        (first, end), (other_first, other_end) = _memory(tensor), _memory(other)
        if first < other_end and other_first < end:
            raise ValueError(
                f"{op}: {name} must be apart from {other_name}, got tensors that overlap; give it memory of its own"
            )


def _memory(tensor: Tensor) -> tuple[int, int]:
    """The addresses of the first byte and of the one behind the last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _width_and_dtype(op: str, name: str, weight: Tensor) -> tuple[int, torch.dtype]:
    """The output channels and the dtype of a layer's first weight."""
    _expect(op, name, weight, ("Co", "C", 1, 1), DTYPES)
    return weight.shape[0], weight.dtype
