"""EM attention: pixels become mixtures of a few bases, which expectation maximisation fits to each image.

Paper: EMANet (arXiv 1907.13426). As in the authors' code and in mmsegmentation, nothing is differentiated through the
EM steps: what learns is the convolution behind them, and the first bases, which follow their results.
"""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.config import GROUPS, SegNeXtConfig
from segnext.models.contexts.context import Context, wide, without_autocast
from segnext.models.ham import BASES_SEED
from segnext.models.layers import Pointwise, norm_act

STAGES = 3
MOMENTUM = 0.1


@torch.fx.wrap
def em_attention(x: Tensor, bases: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the bases to each image; replace each pixel by its mixture of them.

    Args:
        x: pixels (N, D, L).
        bases: the first bases, (1, D, R).

    Returns:
        Mixtures (N, D, L) in x's dtype, with D innermost, and the fitted bases (N, D, R); computed in float32, or in
        float64 for float64.
    """
    with torch.no_grad(), without_autocast(x):
        pixels = wide(x)
        fitted = wide(bases).expand(x.shape[0], -1, -1)
        for _ in range(STAGES):
            weights = F.softmax(pixels.mT @ fitted, dim=2)  # (N, L, R): E
            fitted = F.normalize(pixels @ F.normalize(weights, p=1.0, dim=1), dim=1)  # M
        return (weights @ fitted.mT).mT.to(x.dtype), fitted


class EMAttention(Context):
    """``relu(x + GN(proj_out(relu(EM(proj_in x)))))`` on (N, D, H, W).

    Args:
        channels: D, a multiple of 32.
        rank: R, number of bases.
    """

    attribute = "em_attention"
    official_names = (
        ("ema_mid_conv.conv.{rest}", "em_attention.proj_in.{rest}"),
        ("ema_module.bases", "em_attention.bases"),
        ("ema_out_conv.conv.{rest}", "em_attention.proj_out.{rest}"),
        ("ema_out_conv.gn.{rest}", "em_attention.norm.{rest}"),
    )
    bases: Tensor

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        # It lets features behind a ReLU take any sign. No gradient reaches it, so it is frozen, as in mmsegmentation.
        self.proj_in = Pointwise(channels, channels).requires_grad_(False)
        self.proj_out = Pointwise(channels, channels, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.register_buffer("bases", torch.empty(1, channels, rank))
        self.reset_parameters()

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> EMAttention:
        """Make the module of a SegNeXt with this configuration."""
        return cls(config.decoder_channels, config.rank)

    def reset_parameters(self) -> None:
        """Draw the first bases from their seed, for example after ``to_empty``; no global generator moves."""
        generator = torch.Generator("cpu").manual_seed(BASES_SEED)
        self.bases.copy_(F.normalize(torch.randn(self.bases.shape, generator=generator, device="cpu"), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) to (N, D, H, W); in training the bases move, unless the convolution behind them is frozen."""
        mixtures, fitted = em_attention(self.proj_in(x).flatten(2), self.bases)
        if self.training and self.proj_out.weight.requires_grad:
            follow(self.bases, fitted)
        y = self.proj_out(F.relu(mixtures).unflatten(2, x.shape[2:]))
        return norm_act(self.norm, y, residual=x)


@torch.fx.wrap
def follow(bases: Tensor, fitted: Tensor) -> None:
    """Move bases (1, D, R) towards the mean of those that were fitted to images (N, D, R).

    They stay where they are without images, and after images that are not finite. Processes that train together take
    those of the first one, as the statistics of a BatchNorm.
    """
    with torch.no_grad():
        total = fitted.sum(0, keepdim=True)  # it has the direction of the mean
        moved = bases.lerp(F.normalize(total, dim=1).to(bases.dtype), MOMENTUM)
        usable = total.isfinite().all() & (total.norm(dim=1) > 0).all()
        bases.copy_(torch.where(usable, moved, bases))
