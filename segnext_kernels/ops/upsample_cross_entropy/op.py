"""upsample_cross_entropy: the segmentation loss, without logits or their gradient at full size."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.kernel import dtype_name
from segnext_kernels.memory_format import accumulator_dtype, empty_like
from segnext_kernels.ops.upsample_cross_entropy import compiled, reference
from segnext_kernels.registration import define_autograd, define_op, define_vmap, forbid_double_backward
from segnext_kernels.triton.launch import kernel_of

NAME = "upsample_cross_entropy"
REDUCTIONS = ("mean", "mean_all")
ARGUMENTS = (
    "Tensor logits, Tensor target, int ignore_index, Tensor? class_weight, float label_smoothing, str reduction, "
    "bool align_corners=False"
)


def upsample_cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int = 255,
    class_weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    align_corners: bool = False,
) -> torch.Tensor:
    """Cross-entropy of bilinearly resized logits.

    Same as ``F.cross_entropy(F.interpolate(logits.float(), target.shape[1:], mode="bilinear"), target, ...)``.

    Args:
        logits: (N, K, h, w), contiguous or channels_last; float16, bfloat16, float32, float64.
        target: (N, H, W), int64 or uint8; class ids below K, or ignore_index.
        ignore_index: the id of pixels that do not count.
        class_weight: (K,) floating, or None; gets no gradient.
        label_smoothing: in [0, 1].
        reduction: "mean" over the counted pixels, weighted, as PyTorch (NaN where none counts);
            "mean_all" over all pixels, ignored ones counting as zero, as the official SegNeXt code.
        align_corners: as in ``F.interpolate``; True runs the definition, for which no kernel is fused.

    Returns:
        A scalar, float32 (float64 for float64).

    Raises:
        ValueError: shapes or choices disagree. TypeError: dtypes. IndexError: a class id is out of range, on the
            CPU; on a GPU, which is not waited for, the loss and its gradient are NaN then.
    """
    checks.expect_floating(NAME, "logits", logits, 4, "(N, K, h, w)")
    n, k = logits.shape[:2]
    checks.expect_shape(NAME, "target", target, (n, "H", "W"), f"logits are {tuple(logits.shape)}")
    if target.dtype not in (torch.int64, torch.uint8):
        raise TypeError(
            f"{NAME}: target must be int64 or uint8, got {dtype_name(target.dtype)}; convert it with .long()"
        )
    checks.expect_size(NAME, target.shape[1:], "(H, W) of target")
    checks.expect_shape(NAME, "class_weight", class_weight, (k,), f"logits have {k} classes", optional=True)
    checks.expect_device(NAME, "target", target, "logits", logits)
    checks.expect_device(NAME, "class_weight", class_weight, "logits", logits)
    if class_weight is not None and class_weight.dtype not in checks.FLOATING:
        raise TypeError(
            f"{NAME}: class_weight must be floating, got {dtype_name(class_weight.dtype)}; convert it with .float()"
        )
    checks.expect_choice(NAME, "reduction", reduction, REDUCTIONS)
    ignore_index = checks.expect_integer(NAME, "ignore_index", ignore_index)
    label_smoothing = checks.expect_number(NAME, "label_smoothing", label_smoothing, most=1)
    align_corners = checks.expect_flag(NAME, "align_corners", align_corners)
    weight = None if class_weight is None else class_weight.detach()
    return _op(logits, target, ignore_index, weight, label_smoothing, reduction, align_corners)


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.upsample_cross_entropy,
    fake=lambda logits, *_: logits.new_empty((), dtype=accumulator_dtype(logits.dtype)),
    kernels={**compiled.FORWARD, "triton": kernel_of(__package__, "forward", refuses=compiled.aligned)},
    flops=lambda *args, **_: 0,  # resizing and softmax: not counted by convention
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor",
    reference=reference.upsample_cross_entropy_backward,
    fake=lambda grad, logits, *_: empty_like(logits),
    kernels={
        **compiled.BACKWARD,
        "triton": kernel_of(__package__, "backward", position=1, refuses=compiled.aligned),
    },
    flops=lambda *args, **_: 0,
)


def _save(inputs: tuple[Any, ...], output: Any) -> tuple[tuple[Any, ...], Any]:
    logits, target, ignore_index, class_weight, *rest = inputs
    return (logits, target, class_weight), (ignore_index, tuple(rest))


def _backward(saved: tuple[Any, ...], other: tuple[Any, ...], grad: torch.Tensor) -> tuple[Any, ...]:
    logits, target, class_weight = saved
    ignore_index, rest = other
    grad_logits = _backward_op(grad, logits, target, ignore_index, class_weight, *rest)
    return grad_logits, *(None,) * (3 + len(rest))


# No autocast rule: logits are taken in whatever dtype they come, the loss is float32.
define_autograd(NAME, save=_save, backward=_backward)
forbid_double_backward(NAME)
define_vmap(NAME)
