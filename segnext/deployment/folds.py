"""How a normalisation goes into a convolution; in float64, so that only the results are rounded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnext.deployment.parts import FoldedConv


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return s and t of norm(z) = s z + t, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def in_float64(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias in float64."""
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    return conv.weight.double(), bias.double()


def behind(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> FoldedConv:
    """Return norm(conv(x)) as one convolution."""
    (weight, bias), (scale, shift) = in_float64(conv), scale_and_shift(norm)
    return FoldedConv(weight * scale.view(-1, 1, 1, 1), bias * scale + shift)
