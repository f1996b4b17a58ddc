"""resize_sum: adds bilinearly resized tensors to one of the result's size, for inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from segnext_kernels import checks
from segnext_kernels.memory_format import empty_like
from segnext_kernels.ops.resize_sum import compiled, reference
from segnext_kernels.registration import define_autocast, define_op, define_vmap, forbid_gradient
from segnext_kernels.triton.launch import kernel_of

NAME = "resize_sum"


def resize_sum(
    base: torch.Tensor, others: Sequence[torch.Tensor], align_corners: bool = False
) -> torch.Tensor:
    """The sum of ``base`` and of all others, resized bilinearly to its size, for inference.

    Same as ``base + sum(F.interpolate(t, base.shape[2:], mode="bilinear") for t in others)``, rounded once.

    Args:
        base: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        others: (N, C, h, w) each, of any h and w, in base's dtype.
        align_corners: as in ``F.interpolate``; True runs the definition, for which no kernel is fused.

    Returns:
        (N, C, H, W) in base's dtype and memory format; summed in float32 (float64 for float64), in the order given.
        No gradient.

    Raises:
        ValueError: shapes disagree. TypeError: dtypes. NotImplementedError: no backend takes these inputs, or a
            gradient is asked for.

    Source: a 1x1 convolution of concatenated, resized features is such a sum: SegNeXt's decoder (arXiv 2209.08575).
    """
    checks.expect_floating(NAME, "base", base, 4, "(N, C, H, W)")
    n, c = base.shape[:2]
    others = checks.expect_tensors(NAME, "others", others)
    for index, other in enumerate(others):
        name = f"others[{index}]"
        checks.expect_floating(NAME, name, other, 4, "(N, C, h, w)")
        checks.expect_shape(NAME, name, other, (n, c, "h", "w"), f"base is {tuple(base.shape)}")
        checks.expect_like(NAME, name, other, "base", base)
    return _op(base, others, checks.expect_flag(NAME, "align_corners", align_corners))


_op = define_op(
    NAME,
    "(Tensor base, Tensor[] others, bool align_corners=False) -> Tensor",
    reference=reference.resize_sum,
    fake=lambda base, *_: empty_like(base),
    kernels={
        "cpu": compiled.CPU,
        "triton": kernel_of(
            __package__, "forward", limits=(compiled.most_others(3),), refuses=compiled.aligned
        ),
    },
    flops=lambda *args, **_: 0,  # resizing and adding: not counted by convention
)
forbid_gradient(NAME, "train with torch.nn.functional.interpolate")
define_autocast(NAME)
define_vmap(NAME)
