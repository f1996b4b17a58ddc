"""Hamburger: global context by matrix factorisation between two 1x1 convolutions.

Papers: "Is Attention Better Than Matrix Decomposition?" (arXiv 2109.04553); SegNeXt (arXiv 2209.08575),
section 3.2.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models.config import EVAL_STEPS, GROUPS, SegNeXtConfig
from segnext.models.contexts.context import Context
from segnext.models.layers import Pointwise, norm_act
from segnext_kernels import nmf2d

TRAIN_STEPS = 6
BASES_SEED = 0  # makes evaluation equal in every process, also before weights are loaded


def random_bases(shape: tuple[int, int, int], signed: bool = False, **factory: Any) -> Tensor:
    """Draw bases of ``shape`` (B, D, R), uniform or (if signed) normal, each column of unit length."""
    drawn = torch.randn(shape, **factory) if signed else torch.rand(shape, **factory)
    return F.normalize(drawn, dim=1)


def seeded_bases(shape: tuple[int, int, int], signed: bool = False) -> Tensor:
    """Return the bases (1, D, R) that every model begins with, float32 on the CPU; no global generator moves."""
    generator = torch.Generator("cpu").manual_seed(BASES_SEED)
    return random_bases(shape, signed, generator=generator, device="cpu", dtype=torch.float32)


@torch.fx.wrap
def _redrawn(bases: Tensor, images: Tensor, signed: bool) -> Tensor:
    """Draw new bases (N, D, R) for N images, like ``bases`` (1, D, R)."""
    n, (_, channels, rank) = images.shape[0], bases.shape
    return random_bases((n, channels, rank), signed, device=bases.device, dtype=bases.dtype)


torch.fx.wrap("nmf2d")


class Hamburger(Context):
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

    Attributes:
        signed: whether bases have entries of both signs.
    """

    attribute = "hamburger"
    official_names = (
        ("hamburger.ham_in.conv.{rest}", "hamburger.proj_in.{rest}"),
        ("hamburger.ham_out.conv.{rest}", "hamburger.proj_out.{rest}"),
        ("hamburger.ham_out.gn.{rest}", "hamburger.norm.{rest}"),
        ("hamburger.ham.bases", "hamburger.bases"),
    )
    signed: ClassVar[bool] = False
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

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> Hamburger:
        """Make the module of a SegNeXt with this configuration."""
        return cls(
            config.decoder_channels, config.rank, config.nmf_grad, config.random_eval_bases, config.eval_steps
        )

    def reset_parameters(self) -> None:
        """Fill the bases from their seed again, for example after ``to_empty``."""
        one, channels, rank = self.bases.shape
        self.bases.copy_(seeded_bases((one, channels, rank), self.signed))

    def factorise(self, x: Tensor, bases: Tensor, steps: int) -> Tensor:
        """Pixels (N, D, H W) to what the factors give for them (N, D, H W)."""
        return nmf2d(F.relu(x), bases, steps, self.grad)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) to (N, D, H, W)."""
        bases, steps = self.bases, TRAIN_STEPS if self.training else self.eval_steps
        if self.training or self.random_eval_bases:
            bases = _redrawn(bases, x, self.signed)
        z = self.factorise(self.proj_in(x).flatten(2), bases, steps)
        # flatten and unflatten are views, because the factorisation keeps channels innermost.
        y = self.proj_out(z.unflatten(2, x.shape[2:]))
        return norm_act(self.norm, y, residual=x)
