"""Plain convolutions at stride 1, forward and backward: the references consist of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def depthwise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: tuple[int, int] = (1, 1)
) -> torch.Tensor:
    """(N, C, H, W) with weight (C, 1, Kh, Kw), Kh and Kw odd, "same" zero padding."""
    return F.conv2d(x, weight, bias, 1, _same_padding(weight, dilation), dilation, x.shape[1])


def depthwise_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dilation: tuple[int, int] = (1, 1),
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of `depthwise`'s input, and of [weight] or [weight, bias]."""
    padding, mask = _same_padding(weight, dilation), [True, True, bias is not None]
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], [1, 1], padding, list(dilation), False, [0, 0], x.shape[1], mask
    )
    return grad_x, [grad_weight] if bias is None else [grad_weight, grad_bias]


def _same_padding(weight: torch.Tensor, dilation: tuple[int, int]) -> list[int]:
    return [weight.shape[2] // 2 * dilation[0], weight.shape[3] // 2 * dilation[1]]


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """1x1 convolution (N, Ci, H, W) -> (N, Co, H, W) with weight (Co, Ci, 1, 1).

    As a matrix product over pixels: PyTorch's own 1x1 convolution leaves channels_last on one CPU thread.
    """
    return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def pointwise_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of `pointwise`'s input, and of [weight] or [weight, bias]."""
    pixels = grad.movedim(1, -1)
    grad_x = (pixels @ weight.flatten(1)).movedim(-1, 1)
    grad_rows = pixels.flatten(0, 2)
    grad_weight = (grad_rows.mT @ x.movedim(1, -1).flatten(0, 2)).view(weight.shape)
    return grad_x, [grad_weight] if bias is None else [grad_weight, grad_rows.sum(0)]


def convolution_flops(x_shape: torch.Size, weight_shape: torch.Size) -> int:
    """2 x multiply-adds of either, as torch.utils.flop_counter counts a convolution."""
    pixels = x_shape[0] * x_shape[2] * x_shape[3]
    return 2 * pixels * int(torch.Size(weight_shape).numel())
