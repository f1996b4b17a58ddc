"""Hamburger: global context by matrix factorisation between two 1x1 convolutions.

Papers: "Is Attention Better Than Matrix Decomposition?" (arXiv 2109.04553); SegNeXt (arXiv 2209.08575),
section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.config import EVAL_STEPS, GROUPS
from segnext.models.layers import Pointwise, norm_act
from segnext_kernels import nmf2d

TRAIN_STEPS = 6
BASES_SEED = 0  # makes evaluation equal in every process, also before weights are loaded


def random_bases(shape: tuple[int, int, int], **factory: Any) -> Tensor:
    """Draw uniform random bases of ``shape`` (B, D, R), each column of unit length."""
    return F.normalize(torch.rand(shape, **factory), dim=1)


def seeded_bases(shape: tuple[int, int, int]) -> Tensor:
    """Return the bases (1, D, R) that every model begins with, float32 on the CPU; no global generator moves."""
    generator = torch.Generator("cpu").manual_seed(BASES_SEED)
    return random_bases(shape, generator=generator, device="cpu", dtype=torch.float32)


@torch.fx.wrap
def _redrawn(bases: Tensor, images: Tensor) -> Tensor:
    """Draw new bases (N, D, R) for N images, like ``bases`` (1, D, R)."""
    n, (_, channels, rank) = images.shape[0], bases.shape
    return random_bases((n, channels, rank), device=bases.device, dtype=bases.dtype)


torch.fx.wrap("nmf2d")


class Hamburger(nn.Module):
    """``relu(x + GN(proj_out(NMF(relu(proj_in x)))))`` on (N, D, H, W).

    Training draws new random bases per image and forward pass, as the official code does. Evaluation
    uses the buffer ``bases`` (1, D, R), so that equal images give equal outputs.

    Args:
        channels: D, a multiple of 32.
        rank: R, number of bases.
        grad: ``"unrolled"`` differentiates all NMF steps (official), ``"one_step"`` only the last one (less
            memory).
        random_eval_bases: draw new bases in evaluation too, as the official code does.
        eval_steps: NMF steps in evaluation.
    """

    bases: Tensor

    def __init__(
        self,
        channels: int,
        rank: int,
        grad: str = "unrolled",
        random_eval_bases: bool = False,
        eval_steps: int = EVAL_STEPS,
    ) -> None:
        super().__init__()
        self.proj_in = Pointwise(channels, channels)
        self.proj_out = Pointwise(channels, channels, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.register_buffer("bases", torch.empty(1, channels, rank))
        self.grad = grad
        self.random_eval_bases = random_eval_bases
        self.eval_steps = eval_steps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the bases from their seed again, for example after ``to_empty``."""
        one, channels, rank = self.bases.shape
        self.bases.copy_(seeded_bases((one, channels, rank)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) to (N, D, H, W)."""
        bases, steps = self.bases, TRAIN_STEPS if self.training else self.eval_steps
        if self.training or self.random_eval_bases:
            bases = _redrawn(bases, x)
        z = nmf2d(F.relu(self.proj_in(x)).flatten(2), bases, steps, self.grad)
        # flatten and unflatten are views, because the factorisation keeps channels innermost.
        y = self.proj_out(z.unflatten(2, x.shape[2:]))
        return norm_act(self.norm, y, residual=x)
