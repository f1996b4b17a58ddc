"""upsample_argmax: from low-resolution logits to the label map, without logits at full size."""

from __future__ import annotations

import torch

from segnext_kernels import checks
from segnext_kernels.ops.upsample_argmax import compiled, reference
from segnext_kernels.registration import define_op, define_vmap, forbid_gradient
from segnext_kernels.triton.launch import kernel_of

NAME = "upsample_argmax"


def upsample_argmax(logits: torch.Tensor, size: tuple[int, int], align_corners: bool = False) -> torch.Tensor:
    """Label map of bilinearly resized logits.

    Same as ``F.interpolate(logits.float(), size, mode="bilinear").argmax(1)``, in a few hundredths of its time:
    where one class is the largest at all four corners of a cell it is the largest inside it, and elsewhere only
    the classes that can win are interpolated. Classes closer than float32 rounding may come out either way.

    Args:
        logits: (N, K, h, w), any strides; float16, bfloat16, float32, float64 (compared in float32).
        size: (H, W), larger or smaller than (h, w).
        align_corners: as in ``F.interpolate``; True runs the definition, for which no kernel is fused.

    Returns:
        (N, H, W), uint8 for up to 256 classes, else int32. NaN counts as the largest, as in PyTorch. No gradient.

    Raises:
        ValueError: logits or size has a wrong shape. TypeError: a dtype is wrong. NotImplementedError: no backend takes
            these inputs.
    """
    checks.expect_floating(NAME, "logits", logits, 4, "(N, K, h, w)")
    align_corners = checks.expect_flag(NAME, "align_corners", align_corners)
    if torch.jit.is_tracing():  # a trace would record the op's sizes as constants; the definition takes any
        return reference.upsample_argmax(logits, list(size), align_corners)
    return _op(logits, checks.expect_size(NAME, size), align_corners)


_op = define_op(
    NAME,
    "(Tensor logits, SymInt[2] size, bool align_corners=False) -> Tensor",
    reference=reference.upsample_argmax,
    fake=reference.empty_labels,
    kernels={**compiled.KERNELS, "triton": kernel_of(__package__, "forward", refuses=compiled.aligned)},
    flops=lambda *args, **_: 0,  # resizing and comparing: not counted by convention
)
forbid_gradient(NAME, "labels are not differentiable; train with upsample_cross_entropy")
define_vmap(NAME)
