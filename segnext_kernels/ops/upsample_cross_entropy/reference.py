"""upsample_cross_entropy in plain PyTorch: the definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnext_kernels.memory_format import accumulator_dtype, as_format_of


def _upsample(logits: torch.Tensor, target: torch.Tensor, align_corners: bool) -> torch.Tensor:
    wide = logits.to(accumulator_dtype(logits.dtype))
    return F.interpolate(wide, size=target.shape[1:], mode="bilinear", align_corners=align_corners)


def upsample_cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    class_weight: torch.Tensor | None,
    label_smoothing: float,
    reduction: str,
    align_corners: bool = False,
) -> torch.Tensor:
    full = _upsample(logits, target, align_corners)
    weight = None if class_weight is None else class_weight.to(full.dtype)
    torch_reduction = "mean" if reduction == "mean" else "sum"
    loss = F.cross_entropy(full, target.long(), weight, ignore_index=ignore_index, reduction=torch_reduction,
                           label_smoothing=label_smoothing)  # fmt: skip
    return loss if reduction == "mean" else loss / target.numel()


def upsample_cross_entropy_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    class_weight: torch.Tensor | None,
    label_smoothing: float,
    reduction: str,
    align_corners: bool = False,
) -> torch.Tensor:
    """Gradient of the logits, at their own resolution."""
    full = _upsample(logits, target, align_corners)
    classes = full.shape[1]
    weight = full.new_ones(classes) if class_weight is None else class_weight.to(full.dtype)
    labels = target.long()  # before comparing: a negative ignore_index would wrap in uint8
    counted = labels != ignore_index
    labels = torch.where(counted, labels, 0)
    # The loss of a pixel is -sum_k q_k log p_k with q the smoothed, class-weighted label; d/dlogits = (sum q) p - q.
    q = F.one_hot(labels, classes).permute(0, 3, 1, 2).to(full.dtype) * (1 - label_smoothing)
    q = (q + label_smoothing / classes) * weight.view(1, classes, 1, 1)
    grad_full = q.sum(1, keepdim=True) * torch.softmax(full, 1) - q
    total = (weight[labels] * counted).sum() if reduction == "mean" else target.numel()
    grad_full = torch.where(counted.unsqueeze(1), grad_full * (grad.to(full.dtype) / total), 0)
    grad_logits = torch.ops.aten.upsample_bilinear2d_backward(
        grad_full, list(target.shape[1:]), list(logits.shape), align_corners
    )
    return as_format_of(grad_logits.to(logits.dtype), logits)
