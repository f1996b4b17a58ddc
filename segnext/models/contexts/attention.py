"""The encoder's multi-scale strip attention in the decoder, which the SegNeXt paper compares with a Hamburger.

Paper: SegNeXt (arXiv 2209.08575), appendix, table 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from segnext.models.config import GROUPS, SegNeXtConfig
from segnext.models.contexts.context import Context
from segnext.models.msca import Attention

_UNIT = "msca.attn.spatial_gating_unit."


class StripAttention(Context):
    """``x + MSCA(GN(x))`` on (N, D, H, W), with the published strips whatever the encoder has.

    Args:
        channels: D, a multiple of 32.
    """

    attribute = "msca"
    official_names = (
        ("msca.gn.{rest}", "msca.norm.{rest}"),
        ("msca.attn.proj_1.{rest}", "msca.attention.proj_in.{rest}"),
        ("msca.attn.proj_2.{rest}", "msca.attention.proj_out.{rest}"),
        (_UNIT + "conv0.{rest}", "msca.attention.strips.root.{rest}"),
        (_UNIT + "conv{branch}_1.{rest}", "msca.attention.strips.rows.{branch}.{rest}"),
        (_UNIT + "conv{branch}_2.{rest}", "msca.attention.strips.columns.{branch}.{rest}"),
        (_UNIT + "conv3.{rest}", "msca.attention.mix.{rest}"),
    )

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.attention = Attention(channels)

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> StripAttention:
        """Make the module of a SegNeXt with this configuration."""
        return cls(config.decoder_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) to (N, D, H, W)."""
        return x + self.attention(self.norm(x))
