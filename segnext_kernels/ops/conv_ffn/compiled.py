"""conv_ffn: how its compiled kernels are called; its backward is matrix products around dwconv_gelu's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from segnext_kernels import memory_format, native
from segnext_kernels.backend import would_take
from segnext_kernels.kernel import Limit
from segnext_kernels.ops import convolutions
from segnext_kernels.ops.conv_ffn.reference import empty_out
from segnext_kernels.ops.pointwise.compiled import backward as pointwise_backward
from segnext_kernels.ops.pointwise.compiled import to_channels_last as pointwise


def pack(weights: Sequence[torch.Tensor]) -> native.Packed:
    """The CPU kernel's form of (fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias)."""
    return native.pack("conv_ffn", weights[0].dtype, list(weights))


def run(
    x: torch.Tensor, packed: native.Packed, hidden: int, residual: bool, out: torch.Tensor
) -> torch.Tensor:
    """Run the CPU kernel and write into ``out``, (N, Co, H, W) in x's dtype, which must not overlap x."""
    native.call_cpu("conv_ffn", x, x.dtype, x, packed.address, hidden, residual, out, isa=packed.isa)
    return out


def _cpu(x: torch.Tensor, *args: Any) -> torch.Tensor:
    *weights, residual = args
    if x.dtype == torch.float64:
        return _in_steps(x, *args)
    return run(x, pack(weights), weights[0].shape[0], residual, empty_out(x, *args))


def _in_steps(x: torch.Tensor, *args: Any) -> torch.Tensor:
    """By the kernels of the parts, which have float64; the fused one does not."""
    fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias, residual = args
    hidden = torch.ops.segnext_kernels.dwconv_gelu(pointwise(x, fc1_weight, fc1_bias), dw_weight, dw_bias)
    out = pointwise(hidden, fc2_weight, fc2_bias)
    return memory_format.as_format_of(out.add_(x) if residual else out, x)


def _cuda(x: torch.Tensor, *args: Any) -> torch.Tensor:
    *weights, residual = args
    out = empty_out(x, *args)
    native.call_cuda("conv_ffn", x, x.dtype, x, *weights, out, residual)
    return out


def _backward(
    forward_of: Callable[..., torch.Tensor],
    backward_of: Callable[..., tuple[torch.Tensor, list[torch.Tensor]]],
    grad: torch.Tensor,
    x: torch.Tensor,
    fc1_weight: torch.Tensor,
    fc1_bias: torch.Tensor,
    dw_weight: torch.Tensor,
    dw_bias: torch.Tensor,
    fc2_weight: torch.Tensor,
    fc2_bias: torch.Tensor,
    residual: bool,
) -> list[torch.Tensor]:
    """Products, by two functions as in `convolutions`, around the kernel of dwconv_gelu; recomputes hidden tensors."""
    wide = forward_of(x, fc1_weight, fc1_bias)
    hidden = torch.ops.segnext_kernels.dwconv_gelu(wide, dw_weight, dw_bias)
    grad_hidden, fc2_grads = backward_of(grad, hidden, fc2_weight, fc2_bias)
    grad_wide, *dw_grads = torch.ops.segnext_kernels.dwconv_gelu_backward(
        grad_hidden, wide, dw_weight, dw_bias
    )
    grad_x, fc1_grads = backward_of(grad_wide, x, fc1_weight, fc1_bias)
    grad_x = memory_format.as_format_of(grad_x + grad if residual else grad_x, x)
    return [grad_x, *fc1_grads, *dw_grads, *fc2_grads]


# On a GPU the products are PyTorch's. On the CPU the order in which PyTorch adds depends on the number of threads.
backward_by_pytorch = functools.partial(_backward, convolutions.pointwise, convolutions.pointwise_backward)
backward_on_cpu = functools.partial(_backward, pointwise, pointwise_backward)


def _unfit(x: torch.Tensor, *args: Any) -> str | None:
    """Why the CUDA kernel does not take these: it needs vectors of 16 bytes, and a tile in shared memory."""
    fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias, _ = args
    widths = (x.shape[1], fc1_weight.shape[0], fc2_weight.shape[0])
    if any(width % 8 for width in widths):
        return f"takes C, E and Co that are multiples of 8, not {', '.join(map(str, widths))}"
    if isinstance(x, FakeTensor):  # has neither an address nor a device that could be asked
        return None
    dense = all(t.is_contiguous() for t in (fc1_weight, fc1_bias, dw_bias, fc2_weight, fc2_bias))
    if not dense or any(t.data_ptr() % 16 for t in (fc1_weight, fc2_weight, fc2_bias)):
        return "takes dense weights of fc1 and fc2, and biases, that begin at multiples of 16 bytes"
    if not native._C.conv_ffn_cuda_fits(x.shape[1], native.stream(x)[0]):
        return f"needs more shared memory for {x.shape[1]} channels than this device has"
    return None


def _slower(*args: Any) -> str | None:
    """Why "auto" leaves inputs to Triton's products around dwconv_gelu, which are there.

    With more than 32 channels the fused kernel keeps few blocks on a multiprocessor. On an H200 at 768x1536 it takes 63
    us with 64 channels and the three kernels 39, with 160 channels 60 and 21, with 256 channels 29 and 18
    (bench/results/h200). With 32 it takes 51, saves the hidden tensor, and the three were not measured.
    """
    if args[0].shape[1] <= FUSED_CHANNELS or not would_take("conv_ffn", "triton", args):
        return None
    return f"slower than three kernels above {FUSED_CHANNELS} channels"


FUSED_CHANNELS = 32  # up to which "auto" takes the fused kernel
CHANNELS = Limit(
    lambda x, *_: x.shape[1],
    native.constant("CONV_FFN_MAX_CHANNELS_CUDA"),
    "takes up to {most} channels, not {size}",
)
FORWARD = {
    "cuda": native.cuda(
        _cuda, (torch.float16, torch.bfloat16), limits=(CHANNELS,), refuses=_unfit, slower=_slower
    ),
    "cpu": native.cpu(_cpu),
}
BACKWARD = {
    "cuda": native.cuda(backward_by_pytorch, position=1),
    "cpu": native.cpu(backward_on_cpu, position=1),
}
