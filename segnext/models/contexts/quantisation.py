"""Hamburger with soft k-means (vector quantisation, "VQ") in place of the factorisation.

Paper: "Is Attention Better Than Matrix Decomposition?" (arXiv 2109.04553), section 2.2.2 and appendix. It is for
features of any sign, so there is no ReLU in front of it.
"""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor

from segnext.models.contexts.context import wide, without_autocast
from segnext.models.ham import Hamburger

SHARPNESS = 100.0  # one over the temperature of the softmax, as published
EPS = 1e-6


def assignments(pixels: Tensor, bases: Tensor) -> Tensor:
    """Return how much of each pixel belongs to each base, (N, L, R), from unit pixels (N, L, D) and bases (N, D, R)."""
    return F.softmax(SHARPNESS * (pixels @ bases), dim=-1)


def averages(x: Tensor, coef: Tensor) -> Tensor:
    """Return the mean pixel of each base, (N, D, R), from pixels x (N, D, L) and their assignments (N, L, R)."""
    return x @ (coef / (EPS + coef.sum(1, keepdim=True)))


def unit(bases: Tensor) -> Tensor:
    """Return bases (N, D, R) with columns of unit length."""
    return F.normalize(bases, dim=1, eps=EPS)


def unit_pixels(x: Tensor, grad: str) -> Tensor:
    """Return pixels x (N, D, L) as (N, L, D) of unit length, whose gradient "one_step" leaves out, as published."""
    pixels = x.mT
    length = (pixels.detach() if grad == "one_step" else pixels).norm(dim=-1, keepdim=True)
    return pixels / (EPS + length)


@torch.fx.wrap
def soft_k_means(x: Tensor, bases: Tensor, steps: int, grad: str) -> Tensor:
    """Replace each pixel by a mixture of means of similar pixels.

    Args:
        x: pixels (N, D, L).
        bases: the first means, (1 or N, D, R).
        steps: how often the means are computed again.
        grad: ``"unrolled"`` differentiates all steps, ``"one_step"`` the last assignment only.

    Returns:
        (N, D, L) in x's dtype, with D innermost; computed in float32, or in float64 for float64.
    """
    with without_autocast(x):
        pixels = wide(x)
        means = wide(bases).expand(x.shape[0], -1, -1)
        directions = unit_pixels(pixels, grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and grad == "unrolled"):
            for _ in range(steps):
                means = averages(pixels, assignments(directions, unit(means)))
        return (assignments(directions, unit(means)) @ means.mT).mT.to(x.dtype)


class VectorQuantisation(Hamburger):
    """``relu(x + GN(proj_out(soft k-means(proj_in x))))`` on (N, D, H, W); arguments as of :class:`Hamburger`."""

    signed = True

    def factorise(self, x: Tensor, bases: Tensor, steps: int) -> Tensor:
        """Pixels (N, D, L) to their mixtures of means (N, D, L)."""
        return soft_k_means(x, bases, steps, self.grad)
