"""group_norm_act: how its compiled kernels are called, and what they leave to PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import memory_format, native
from segnext_kernels.kernel import Limit
from segnext_kernels.ops.group_norm_act.reference import empty_gradients


def run(
    call: Any,
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    act: str,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Write into ``out``, which may be x or the residual; without it, into new memory."""
    out = memory_format.empty_like(x) if out is None else out
    call(
        "group_norm_act", x, x.dtype, weight.dtype, x, groups, weight, bias, eps, residual, act == "relu", out,
        workspace=True,
    )  # fmt: skip
    return out


def _backward(
    call: Any,
    grad: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    eps: float,
    act: str,
    residual: bool,
) -> list[torch.Tensor]:
    grads = empty_gradients(grad, x, out, groups, weight, eps, act, residual)
    call(
        "group_norm_act_backward", x, x.dtype, weight.dtype, grad, x, out, groups, weight, eps, act == "relu",
        *grads[:3], grads[3] if residual else None, workspace=True,
    )  # fmt: skip
    return grads


def _slower_on_the_cpu(x: torch.Tensor, *_: Any) -> str | None:
    # measured at (1, 256, 64, 64): the kernel works on chunks of pixels, for which a contiguous tensor is transposed
    return None if memory_format.is_channels_last(x) else "PyTorch is twice as fast on contiguous tensors"


# CUDA counts pixels in 32 bits.
PIXELS = Limit(lambda x, *_: x.shape[2] * x.shape[3], 2**30, "takes up to {most} pixels an image, not {size}")


def _kernels(function: Any, position: int) -> dict[str, Any]:
    return native.both(
        function, position=position, on_cuda={"limits": (PIXELS,)}, on_cpu={"slower": _slower_on_the_cpu}
    )


FORWARD = _kernels(run, 0)
BACKWARD = _kernels(_backward, 1)
