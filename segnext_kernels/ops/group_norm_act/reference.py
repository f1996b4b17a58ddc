"""group_norm_act in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnext_kernels.memory_format import accumulator_dtype, as_format_of, empty_like


def group_norm_act(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    act: str,
) -> torch.Tensor:
    wide = accumulator_dtype(x.dtype)
    out = F.group_norm(x.to(wide), groups, weight.to(wide), bias.to(wide), eps)
    if residual is not None:
        out = out + residual
    return as_format_of((F.relu(out) if act == "relu" else out).to(x.dtype), x)


def group_norm_act_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    eps: float,
    act: str,
    residual: bool,
) -> list[torch.Tensor]:
    """Gradients of x, weight, bias, [residual], with recomputed statistics; ``out`` tells where ReLU was active."""
    n, c, h, w = x.shape
    wide = accumulator_dtype(x.dtype)
    grad = grad.to(wide)
    if act == "relu":
        grad = torch.ops.aten.threshold_backward(grad, out.to(wide), 0)
    normalised, _, rstd = torch.native_group_norm(
        x.to(wide).contiguous(), None, None, n, c, h * w, groups, eps
    )
    normalised, rstd = normalised.view(n, groups, c // groups, h * w), rstd.view(n, groups, 1, 1)
    grad_normalised = (grad * weight.to(wide).view(1, c, 1, 1)).reshape(normalised.shape)
    centred = grad_normalised - grad_normalised.mean((2, 3), keepdim=True)
    projected = (grad_normalised * normalised).mean((2, 3), keepdim=True)
    grad_x = (rstd * (centred - normalised * projected)).reshape(x.shape)
    grad_weight = (grad * normalised.reshape(x.shape)).sum((0, 2, 3)).to(weight.dtype)
    grads = [as_format_of(grad_x.to(x.dtype), x), grad_weight, grad.sum((0, 2, 3)).to(weight.dtype)]
    # a copy, even if grad is unchanged: an op's output must not alias its input
    return [*grads, as_format_of(grad.to(x.dtype, copy=True), x)] if residual else grads


def empty_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    eps: float,
    act: str,
    residual: bool,
) -> list[torch.Tensor]:
    grads = [empty_like(x), weight.new_empty(weight.shape), weight.new_empty(weight.shape)]
    return [*grads, empty_like(x)] if residual else grads
