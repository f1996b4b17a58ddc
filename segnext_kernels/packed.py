"""Inference on a CPU with weights packed once: what a deployed model is made of.

A layer here packs its weights for this machine's instruction set when it is made and writes its result into a
tensor the caller gives, so that a model may plan its memory. All tensors are (N, C, H, W) in channels_last,
float32 or bfloat16; there is no autograd, and shapes are the caller's responsibility.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segnext_kernels import native
from segnext_kernels.ops.channel_norm import compiled as norm
from segnext_kernels.ops.conv2d_act import compiled as conv2d
from segnext_kernels.ops.conv_ffn import compiled as conv_ffn
from segnext_kernels.ops.group_norm_act import compiled as group_norm
from segnext_kernels.ops.msca_block import compiled as msca_block
from segnext_kernels.ops.nmf2d import compiled as nmf
from segnext_kernels.ops.nmf2d.op import EPS
from segnext_kernels.ops.resize_sum import compiled as resize

DTYPES = native.INFERENCE_DTYPES


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

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        stride: int = 1,
        padding: int = 0,
        activation: str = "none",
    ) -> None:
        self.kernel, self.stride, self.padding = (weight.shape[2], weight.shape[3]), stride, padding
        self.activation, self.packed = activation, conv2d.pack(weight, bias, dtype)

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """(N, C, H, W) of the layer's dtype, any strides, into ``out`` (N, Co, Ho, Wo), either dtype."""
        return conv2d.run(x, self.packed, self.kernel, self.stride, self.padding, self.activation, out)


class PackedMscaBlock:
    """`segnext_kernels.msca_block`; the weights are its arguments after x, in its dtype."""

    def __init__(self, weights: Sequence[Any]) -> None:
        self.packed = msca_block.pack(weights)

    def __call__(self, x: Tensor, out: Tensor, workspace: Tensor) -> Tensor:
        """``workspace`` has `workspace_elements(x.shape)` elements of x's dtype; ``out`` must not overlap x."""
        return msca_block.run(x, self.packed, workspace, out)


class PackedConvFfn:
    """`segnext_kernels.conv_ffn` with the residual; the weights are its arguments after x, in its dtype."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.packed, self.hidden = conv_ffn.pack(weights), weights[0].shape[0]

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """``out`` must not overlap x."""
        return conv_ffn.run(x, self.packed, self.hidden, True, out)


def workspace_elements(shape: torch.Size) -> int:
    """Elements that `PackedMscaBlock` needs for an input of this shape."""
    return msca_block.workspace_elements(shape)


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> Tensor:
    """LayerNorm over C; weight and bias (C,) in float32; ``out`` may be x."""
    return norm.run(x, weight, bias, eps, out)


def resize_sum(base: Tensor, others: Sequence[Tensor], out: Tensor) -> Tensor:
    """``base`` (N, C, H, W) plus every other (N, C, h, w) resized bilinearly to its size; ``out`` may be base."""
    return resize.run(base, others, out)


def nmf2d(x: Tensor, bases: Tensor, steps: int, projection: Tensor, out: Tensor) -> Tensor:
    """The 1x1 convolution ``projection`` of `segnext_kernels.nmf2d` over the pixels of x (N, D, H, W).

    The result has rank R, so it is enough to project the bases: D P R multiply-adds instead of D P H W.

    Args:
        bases: (1, D, R), float32.
        projection: (P, D), float32.
        out: (N, P, H, W).
    """
    nmf.run(x.flatten(2), bases, steps, EPS, out.flatten(2), projection=projection)
    return out


def group_norm_act(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, residual: Tensor | None, out: Tensor
) -> Tensor:
    """`segnext_kernels.group_norm_act` with ReLU; weight and bias in float32; ``out`` may be x."""
    return group_norm.run(native.call_cpu, x, groups, weight, bias, eps, residual, "relu", out)
