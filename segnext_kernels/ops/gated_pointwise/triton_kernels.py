"""gated_pointwise in Triton: (W m + b) * u and its gradients, on the product of `triton.pointwise`.

The forward is one kernel: the gate is the product's epilogue. The backward is four. With the incoming gradient g,

    grad_u = (W m + b) * g      the forward kernel with g for u: the gate W m + b is recomputed, not saved
    grad_m = Wᵀ (g * u)         the product; g * u is computed as its operand is loaded
    grad_W = (g * u)ᵀ m, grad_b: sums over pixels, split over programs; a last kernel adds them in a fixed order

g * u is rounded to m's dtype for the tensor cores, as eager PyTorch rounds it to store it.

Model for an H200, P pixels, C = Ci = Co, e bytes per element: forward 2 P C C FLOP and e (3 P C + C C) bytes; backward
6 P C C FLOP and e (9 P C + 3 C C) bytes (m twice, u twice, g three times, two gradients written). Saving g * u would
read e P C less and write e P C more.
"""

from __future__ import annotations

import torch

from segnext_kernels import memory_format
from segnext_kernels.triton.pointwise import pointwise, weight_gradient


def forward(
    m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """See `ops.gated_pointwise.op`."""
    return pointwise(m, weight[:, :, 0, 0], bias, memory_format.empty_like(u), gate=u)


def backward(
    grad: torch.Tensor, m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    """Gradients of m, u, weight, [bias]."""
    matrix = weight[:, :, 0, 0]
    grad_u = pointwise(m, matrix, bias, memory_format.empty_like(u), gate=grad)
    grad_m = pointwise(grad, matrix.mT, None, memory_format.empty_like(m), multiplier=u)
    return [grad_m, grad_u, *weight_gradient(grad, u, m, weight, bias)]
