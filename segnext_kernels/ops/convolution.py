"""Plain convolutions with "same" zero padding at stride 1, forward and backward: what the references are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, depthwise: bool) -> torch.Tensor:
    """(N, Ci, H, W) -> (N, Co, H, W); weight (Co, Ci, Kh, Kw), or (C, 1, Kh, Kw) when depthwise; Kh, Kw odd."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(x, weight, bias, padding=padding, groups=x.shape[1] if depthwise else 1)


def conv_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, depthwise: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of `conv`'s input, and of [weight] or [weight, bias]."""
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], [1, 1], padding, [1, 1], False, [0, 0],
        x.shape[1] if depthwise else 1, [True, True, bias is not None],
    )  # fmt: skip
    return grad_x, [grad_weight] if bias is None else [grad_weight, grad_bias]


def conv_flops(x_shape: torch.Size, weight_shape: torch.Size) -> int:
    """2 x multiply-adds of `conv`, as torch.utils.flop_counter counts a convolution."""
    pixels = x_shape[0] * x_shape[2] * x_shape[3]
    return 2 * pixels * int(torch.Size(weight_shape).numel())
