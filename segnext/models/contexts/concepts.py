"""Hamburger with concept decomposition ("CD"): means as of k-means, and least squares for the coefficients.

Paper: "Is Attention Better Than Matrix Decomposition?" (arXiv 2109.04553), section 2.2.2 and appendix.
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor

from segnext.models.contexts.context import wide, without_autocast
from segnext.models.contexts.quantisation import (
    VectorQuantisation,
    assignments,
    averages,
    unit,
    unit_pixels,
)

RIDGE = 0.1  # beta of the paper; it keeps the system of equations regular


@torch.fx.wrap
def concept_decomposition(x: Tensor, bases: Tensor, steps: int, grad: str) -> Tensor:
    """Replace each pixel by its ridge regression on the directions of means of similar pixels.

    Args:
        x: pixels (N, D, L).
        bases: the first concepts, (1 or N, D, R).
        steps: how often the concepts are computed again.
        grad: ``"unrolled"`` differentiates all steps, ``"one_step"`` the regression only.

    Returns:
        (N, D, L) in x's dtype, with D innermost; computed in float32, or in float64 for float64.
    """
    with without_autocast(x):
        pixels = wide(x)
        concepts = wide(bases).expand(x.shape[0], -1, -1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and grad == "unrolled"):
            directions = unit_pixels(pixels, grad)
            for _ in range(steps):
                concepts = unit(averages(pixels, assignments(directions, concepts)))
        gram = concepts.mT @ concepts
        ridge = RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        # As torch.linalg.solve, without the wait for a GPU to say that the matrix is regular, which it is.
        coef, _ = torch.linalg.solve_ex(gram + ridge, concepts.mT @ pixels)
        return (coef.mT @ concepts.mT).mT.to(x.dtype)


class ConceptDecomposition(VectorQuantisation):
    """``relu(x + GN(proj_out(CD(proj_in x))))`` on (N, D, H, W); arguments as of :class:`Hamburger`."""

    def factorise(self, x: Tensor, bases: Tensor, steps: int) -> Tensor:
        """Pixels (N, D, L) to their regressions (N, D, L)."""
        return concept_decomposition(x, bases, steps, self.grad)
