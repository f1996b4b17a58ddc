"""Attentions that `segnext_kernels.msca_block` cannot compute: large kernels as in VAN, and no product.

Their 1x1 convolutions are folded as those of the published attention. Two of them in a row, as without the product,
become one.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from segnext.deployment.parts import FoldedVariant, Layers
from segnext.models.config import LARGE_DILATION
from segnext_kernels import depthwise_sum, gated_pointwise, msca_conv


class VariantAttention:
    """Runs a `FoldedVariant` layer by layer; its results are in memory of their own."""

    def __init__(self, weights: FoldedVariant, layers: Layers) -> None:
        self.proj_in, self.proj_out = (
            layers.pointwise(weights.proj_in, "gelu"),
            layers.pointwise(weights.proj_out),
        )
        placed = layers.placed(weights)
        self.root, self.dilated, self.mix = placed.root, placed.dilated, placed.mix
        self.rows, self.columns = placed.rows, placed.columns
        self.skip_scale, self.skip_shift = (
            one.view(1, -1, 1, 1) for one in (placed.skip_scale, placed.skip_shift)
        )

    def __call__(self, x: Tensor, out: Tensor | None, workspace: Tensor | None) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), the block's skip included."""
        u = self.proj_in(x, torch.empty_like(x))
        root = self.root.weight, self.root.bias
        if self.dilated is None:
            m = msca_conv(
                u, *root,
                [conv.weight for conv in self.rows], [conv.weight for conv in self.columns],
                [cast(Tensor, conv.bias) for conv in self.rows], [cast(Tensor, conv.bias) for conv in self.columns],
            )  # fmt: skip
        else:
            m = depthwise_sum(u, [[root, (self.dilated.weight, self.dilated.bias, LARGE_DILATION)]])
        if self.mix is not None:
            m = gated_pointwise(m, u, self.mix.weight, self.mix.bias)
        return torch.addcmul(self.proj_out(m, torch.empty_like(x)) + self.skip_shift, x, self.skip_scale)
