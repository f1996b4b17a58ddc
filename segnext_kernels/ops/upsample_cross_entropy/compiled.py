"""upsample_cross_entropy: how its compiled kernels are called."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import memory_format, native
from segnext_kernels.kernel import WITHOUT_ALIGNED_CORNERS


def _arguments(
    logits: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    class_weight: torch.Tensor | None,
    label_smoothing: float,
    reduction: str,
    align_corners: bool = False,
) -> tuple[list[Any], tuple[torch.Tensor, torch.Tensor | None]]:
    """What the library takes, and the tensors that must live as long as the call."""
    target = target.contiguous()
    wide = memory_format.accumulator_dtype(logits.dtype)
    weight = None if class_weight is None else class_weight.to(wide).contiguous()
    arguments = [
        logits.dtype, logits, target, target.dtype == torch.uint8, ignore_index,
        0 if weight is None else weight.data_ptr(), label_smoothing, reduction == "mean_all",
    ]  # fmt: skip
    return arguments, (target, weight)


def _cpu(logits: torch.Tensor, *args: Any) -> torch.Tensor:
    arguments, _keep = _arguments(logits, *args)
    loss = native.call_cpu("upsample_cross_entropy", logits, *arguments)
    return logits.new_tensor(loss, dtype=memory_format.accumulator_dtype(logits.dtype))


def _cuda(logits: torch.Tensor, *args: Any) -> torch.Tensor:
    arguments, _keep = _arguments(logits, *args)
    loss = logits.new_empty((), dtype=torch.float32)
    native.call_cuda("upsample_cross_entropy", logits, *arguments, loss.data_ptr(), workspace=True)
    return loss


def _cpu_backward(grad: torch.Tensor, logits: torch.Tensor, *args: Any) -> torch.Tensor:
    return _backward(native.call_cpu, float(grad), logits, *args)


def _cuda_backward(grad: torch.Tensor, logits: torch.Tensor, *args: Any) -> torch.Tensor:
    return _backward(native.call_cuda, grad.data_ptr(), logits, *args)


def _backward(call: Any, grad: float, logits: torch.Tensor, *args: Any) -> torch.Tensor:
    arguments, _keep = _arguments(logits, *args)
    grad_logits = memory_format.empty_like(logits)
    call("upsample_cross_entropy_backward", logits, *arguments, grad, grad_logits, workspace=True)
    return grad_logits


def aligned(logits: torch.Tensor, target: torch.Tensor, *rest: Any) -> str | None:
    """Why no fused kernel takes these arguments; the dispatcher leaves out a last argument that has its default."""
    return WITHOUT_ALIGNED_CORNERS if rest[4:] == (True,) else None


FORWARD = {"cuda": native.cuda(_cuda, refuses=aligned), "cpu": native.cpu(_cpu, refuses=aligned)}
BACKWARD = {
    "cuda": native.cuda(_cuda_backward, position=1, refuses=aligned),
    "cpu": native.cpu(_cpu_backward, position=1, refuses=aligned),
}
