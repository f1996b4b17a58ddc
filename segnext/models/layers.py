"""1x1 convolution as a matrix product over pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Pointwise(nn.Conv2d):
    """A 1x1 `nn.Conv2d` (same parameters, same result) computed as `F.linear` on the innermost channels.

    On channels_last tensors that is one matrix product without a copy; PyTorch's own 1x1 convolution copies to
    contiguous and back on a single CPU thread.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H, W), channels_last."""
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)
