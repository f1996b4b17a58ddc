"""Criss-cross attention: each pixel attends the pixels of its row and of its column, twice.

Paper: CCNet (arXiv 1811.11721). After two rounds each pixel has seen all others, for O(H + W) instead of O(H W) each.
"""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.config import SegNeXtConfig
from segnext.models.contexts.context import Context
from segnext.models.layers import ConvNormAct, Pointwise

REDUCTION = 8
RECURRENCE = 2


@torch.fx.wrap
def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend the pixels of the same row and column, itself once.

    Args:
        query, key: (N, E, H, W).
        value: (N, D, H, W).

    Returns:
        (N, D, H, W) in channels_last. Rows of channels_last tensors are matrices as they lie in memory; columns are
        copied by the batched products where N > 1.
    """
    height, width = query.shape[2:]
    q, k, v = (x.permute(0, 2, 3, 1) for x in (query, key, value))  # (N, H, W, channels)
    columns, rows = q.transpose(1, 2) @ k.permute(0, 2, 3, 1), q @ k.mT  # (N, W, H, H), (N, H, W, W)
    # The row has the pixel itself already.
    itself = torch.full((height,), float("-inf"), dtype=columns.dtype, device=columns.device).diag()
    weights = F.softmax(torch.cat([(columns + itself).transpose(1, 2), rows], -1), dim=-1).to(v.dtype)
    in_column, in_row = weights.split([height, width], -1)
    out = in_row @ v + (in_column.transpose(1, 2) @ v.transpose(1, 2)).transpose(1, 2)
    return out.permute(0, 3, 1, 2)


class Scale(nn.Module):
    """One learnt factor, which is 0 at the beginning; a module of its own, as in mmcv."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the factor to 0."""
        nn.init.zeros_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return x * self.scale


class CrissCross(Context):
    """``conv_out(a(a(conv_in(x))))`` with ``a(y) = y + gamma criss_cross(y)``, on (N, D, H, W).

    Both convolutions are 1x1 with GroupNorm and ReLU. One set of weights serves both rounds, as published.

    Args:
        channels: D, a multiple of 32.
    """

    attribute = "criss_cross"
    official_names = (
        ("cca_in.conv.{rest}", "criss_cross.conv_in.conv.{rest}"),
        ("cca_in.gn.{rest}", "criss_cross.conv_in.norm.{rest}"),
        ("cca.query_conv.{rest}", "criss_cross.query.{rest}"),
        ("cca.key_conv.{rest}", "criss_cross.key.{rest}"),
        ("cca.value_conv.{rest}", "criss_cross.value.{rest}"),
        ("cca.gamma.scale", "criss_cross.gamma.scale"),
        ("cca_out.conv.{rest}", "criss_cross.conv_out.conv.{rest}"),
        ("cca_out.gn.{rest}", "criss_cross.conv_out.norm.{rest}"),
    )

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_in = ConvNormAct(channels, channels)
        self.query = Pointwise(channels, channels // REDUCTION)
        self.key = Pointwise(channels, channels // REDUCTION)
        self.value = Pointwise(channels, channels)
        self.gamma = Scale()
        self.conv_out = ConvNormAct(channels, channels)

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> CrissCross:
        """Make the module of a SegNeXt with this configuration."""
        return cls(config.decoder_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) to (N, D, H, W)."""
        y = self.conv_in(x)
        for _ in range(RECURRENCE):
            y = y + self.gamma(criss_cross(self.query(y), self.key(y), self.value(y)))
        return self.conv_out(y)
