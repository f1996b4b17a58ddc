"""nmf2d_projected: nmf2d and the 1x1 convolution of its result, for inference."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.ops.nmf2d import op as nmf
from segnext_kernels.ops.nmf2d_projected import compiled, reference
from segnext_kernels.registration import define_autocast, define_op, define_vmap, forbid_gradient
from segnext_kernels.triton.launch import kernel_of

NAME = "nmf2d_projected"


def nmf2d_projected(
    x: torch.Tensor, bases: torch.Tensor, steps: int, projection: torch.Tensor, eps: float = nmf.EPS
) -> torch.Tensor:
    """`nmf2d` and a 1x1 convolution of its result, which is never made.

    Same as ``projection @ nmf2d(x, bases, steps, eps=eps)``. That result has rank R, so it is enough to project the
    bases: D P R multiply-adds instead of D P N.

    Args:
        x: (B, D, N), not negative; float16, bfloat16, float32, float64.
        bases: (1, D, R) or (B, D, R), float32 (or x's dtype), columns of unit length.
        steps: number of double updates, >= 0.
        projection: (P, D), float32 (or x's dtype).
        eps: added to both denominators.

    Returns:
        (B, P, N) in x's dtype, dense, with x's innermost axis (P where x is a channels_last image's pixels);
        state and accumulators are float32 (float64 for float64). No gradient.

    Raises:
        ValueError: shapes disagree. TypeError: dtypes. NotImplementedError: no backend takes these inputs.

    Source: Hamburger (arXiv 2109.04553): its matrix decomposition and the lower bread behind it.
    """
    steps, eps = nmf.check(NAME, x, bases, steps, eps)
    checks.expect_floating(NAME, "projection", projection, 2, "(P, D)")
    checks.expect_shape(NAME, "projection", projection, ("P", x.shape[1]), f"x is {tuple(x.shape)}")
    checks.expect_precise(NAME, "projection", projection, "x", x)
    return _op(x, bases, steps, projection, eps)


def _flops(x: Any, bases: Any, steps: int, projection: Any, *_: Any, **__: Any) -> int:
    b, d, n = x
    return nmf.flops(x, bases, steps) + 2 * b * projection[0] * d * n  # the definition's, by convention


_op = define_op(
    NAME,
    "(Tensor x, Tensor bases, int steps, Tensor projection, float eps) -> Tensor",
    reference=reference.nmf2d_projected,
    fake=reference.empty_out,
    kernels={**compiled.KERNELS, "triton": kernel_of(__package__, "forward", limits=(nmf.TRITON_RANK,))},
    flops=_flops,
)
forbid_gradient(NAME, "train with nmf2d and a matrix product")
define_autocast(NAME, "x")  # bases and state stay fp32, as in nmf2d
define_vmap(NAME)
