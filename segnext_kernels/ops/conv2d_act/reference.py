"""conv2d_act in plain PyTorch: the definition, and functions that allocate its results."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segnext_kernels.memory_format import accumulator_dtype, format_of

ACTS = {"none": lambda t: t, "relu": F.relu, "gelu": F.gelu}


def conv2d_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: int,
    act: str,
    float32_out: bool,
    channels_last: bool,
) -> torch.Tensor:
    format_ = torch.channels_last if channels_last else format_of(x)
    x = x.to(weight.dtype)
    if float32_out:
        wide = accumulator_dtype(weight.dtype)
        x, weight, bias = x.to(wide), weight.to(wide), None if bias is None else bias.to(wide)
    out = F.conv2d(x, weight, bias, stride, padding)
    return ACTS[act](out).contiguous(memory_format=format_)


def output_size(x: torch.Size, weight: torch.Size, stride: int, padding: int) -> tuple[int, int]:
    """Height and width of the result."""
    height, width = (
        (size + 2 * padding - k) // stride + 1 for size, k in zip(x[2:], weight[2:], strict=True)
    )
    return height, width


def empty_out(
    x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, float32_out: bool, channels_last: bool
) -> torch.Tensor:
    """The result, uninitialised."""
    return torch.empty(
        (x.shape[0], weight.shape[0], *output_size(x.shape, weight.shape, stride, padding)),
        dtype=accumulator_dtype(weight.dtype) if float32_out else weight.dtype,
        device=x.device,
        memory_format=torch.channels_last if channels_last else format_of(x),
    )
