"""Non-local attention: each pixel attends all pixels.

Paper: "Non-local Neural Networks" (arXiv 1711.07971), embedded Gaussian, with the scale of mmsegmentation's NLHead.
"""

from __future__ import annotations

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.config import GROUPS, SegNeXtConfig
from segnext.models.contexts.context import Context
from segnext.models.layers import Pointwise

REDUCTION = 2


@torch.fx.wrap
def non_local(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend all pixels: softmax(query · key / sqrt(E)) value.

    Args:
        query, key, value: (N, E, H, W).

    Returns:
        (N, E, H, W) in channels_last.
    """
    q, k, v = (x.flatten(2).mT.unsqueeze(1) for x in (query, key, value))  # (N, 1, H W, E)
    attended = F.scaled_dot_product_attention(q, k, v).squeeze(1)
    return attended.mT.unflatten(2, query.shape[2:])


class ZeroNorm(nn.GroupNorm):
    """A GroupNorm whose scale is 0 at the beginning."""

    def reset_parameters(self) -> None:
        """Set scale and shift to 0."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class NonLocal(Context):
    """``x + GN(conv_out(attention(theta x, phi x, g x)))`` on (N, D, H, W), with D / 2 channels inside.

    The norm's scale is 0 at the beginning, so that the module begins as the identity.

    Args:
        channels: D, a multiple of 32.
    """

    attribute = "non_local"
    official_names = (
        ("nl_block.theta.conv.{rest}", "non_local.theta.{rest}"),
        ("nl_block.phi.conv.{rest}", "non_local.phi.{rest}"),
        ("nl_block.g.conv.{rest}", "non_local.g.{rest}"),
        ("nl_block.conv_out.conv.{rest}", "non_local.conv_out.{rest}"),
        ("nl_block.conv_out.gn.{rest}", "non_local.norm.{rest}"),
    )

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // REDUCTION
        self.theta, self.phi, self.g = (Pointwise(channels, inner) for _ in range(3))
        self.conv_out = Pointwise(inner, channels, bias=False)
        self.norm = ZeroNorm(GROUPS, channels)

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> NonLocal:
        """Make the module of a SegNeXt with this configuration."""
        return cls(config.decoder_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) to (N, D, H, W)."""
        return x + self.norm(self.conv_out(non_local(self.theta(x), self.phi(x), self.g(x))))
