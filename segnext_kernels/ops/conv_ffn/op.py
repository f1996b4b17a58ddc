"""conv_ffn: SegNeXt's whole feed-forward network, fc1 - depthwise 3x3 - GELU - fc2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from segnext_kernels import checks, memory_format, native
from segnext_kernels.backend import Kernel
from segnext_kernels.ops.conv_ffn import reference
from segnext_kernels.ops.convolutions import convolution_flops, pointwise, pointwise_backward
from segnext_kernels.ops.dwconv_gelu.op import dwconv_gelu
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton import launch

NAME = "conv_ffn"
ARGUMENTS = (
    "Tensor x, Tensor fc1_weight, Tensor fc1_bias, Tensor dw_weight, Tensor dw_bias,"
    " Tensor fc2_weight, Tensor fc2_bias, bool residual"
)


def _fake(x: torch.Tensor, *args: Any) -> torch.Tensor:
    fc2_weight = args[4]
    return memory_format.empty_like(x, channels=fc2_weight.shape[0])


def _fake_backward(grad: torch.Tensor, x: torch.Tensor, *args: Any) -> list[torch.Tensor]:
    return [memory_format.empty_like(x), *(p.new_empty(p.shape) for p in args[:6])]


def _flops(
    x: Any, fc1_weight: Any, fc1_bias: Any, dw_weight: Any, dw_bias: Any, fc2_weight: Any, *_: Any, **__: Any
) -> int:
    return sum(convolution_flops(x, weight) for weight in (fc1_weight, dw_weight, fc2_weight))


def _flops_backward(grad: Any, x: Any, *args: Any, **_: Any) -> int:
    return 2 * _flops(x, *args)


def pack(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """The CPU kernel's form of (fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias)."""
    dtype = native.DTYPES[weights[0].dtype]
    views, isa = [native.view(t) for t in weights], native.instruction_set()
    packed = native.packed_memory(native._C.conv_ffn_packed_bytes(dtype, views, isa))
    native._C.conv_ffn_pack_cpu(dtype, views, packed.data_ptr(), isa)
    return packed


def run_packed(x: torch.Tensor, packed: torch.Tensor, hidden: int, residual: bool, out: torch.Tensor) -> None:
    """The CPU kernel on packed weights; ``out`` is (N, Co, H, W) in x's dtype and must not overlap x."""
    native._C.conv_ffn_cpu(
        native.DTYPES[x.dtype], native.view(x), packed.data_ptr(), hidden, residual, native.view(out),
        native.instruction_set(), torch.get_num_threads(),
    )  # fmt: skip


def _cpu(x: torch.Tensor, *args: Any) -> torch.Tensor:
    *weights, residual = args
    out = _fake(x, *args)
    run_packed(x, pack(weights), weights[0].shape[0], residual, out)
    return out


def _products_backward(
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
    """PyTorch's matrix products around the kernel of dwconv_gelu; the hidden tensors are recomputed from x."""
    wide = pointwise(x, fc1_weight, fc1_bias)
    hidden = torch.ops.segnext_kernels.dwconv_gelu(wide, dw_weight, dw_bias)
    grad_hidden, fc2_grads = pointwise_backward(grad, hidden, fc2_weight, fc2_bias)
    grad_wide, *dw_grads = torch.ops.segnext_kernels.dwconv_gelu_backward(
        grad_hidden, wide, dw_weight, dw_bias
    )
    grad_x, fc1_grads = pointwise_backward(grad_wide, x, fc1_weight, fc1_bias)
    return [
        memory_format.as_format_of(grad_x + grad if residual else grad_x, x),
        *fc1_grads,
        *dw_grads,
        *fc2_grads,
    ]


def _cpu_backward_refuses(grad: torch.Tensor, x: torch.Tensor, *_: Any) -> str | None:
    return _cpu_refuses(x)


def _cuda(x: torch.Tensor, *args: Any) -> torch.Tensor:
    *weights, residual = args
    out = _fake(x, *args)
    views = [native.view(t) for t in (x, *weights, out)]
    status = native._C.conv_ffn_cuda(native.DTYPES[x.dtype], *views, residual, *native.stream(x))
    native.check_launch(status, NAME)
    return out


def _cuda_backward_refuses(grad: torch.Tensor, x: torch.Tensor, *_: Any) -> str | None:
    return native.cuda_refuses(x, native.CUDA_DTYPES)


def _triton_backward_refuses(grad: torch.Tensor, x: torch.Tensor, *_: Any) -> str | None:
    return launch.refuses(x)


def _cpu_refuses(x: torch.Tensor, *_: Any) -> str | None:
    return native.cpu_refuses(x, (torch.float32, torch.bfloat16))


def _cuda_refuses(x: torch.Tensor, *args: Any) -> str | None:
    return native.cuda_refuses(x, (torch.float16, torch.bfloat16)) or _unfit(x, *args)


def _unfit(x: torch.Tensor, *args: Any) -> str | None:
    """What the CUDA kernel needs beyond dtypes and a device: 16-byte vectors of weights, a tile in shared memory."""
    fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias, _ = args
    widths = (x.shape[1], fc1_weight.shape[0], fc2_weight.shape[0])
    if any(width % 8 for width in widths):
        return f"takes C, E and Co that are multiples of 8, not {', '.join(map(str, widths))}"
    if x.shape[1] > native._C.CONV_FFN_MAX_CHANNELS_CUDA:
        return f"takes up to {native._C.CONV_FFN_MAX_CHANNELS_CUDA} channels, not {x.shape[1]}"
    dense = all(t.is_contiguous() for t in (fc1_weight, fc1_bias, dw_bias, fc2_weight, fc2_bias))
    if isinstance(x, FakeTensor):  # has neither an address nor a device that could be asked
        return None
    if not dense or any(t.data_ptr() % 16 for t in (fc1_weight, fc2_weight, fc2_bias)):
        return "takes dense weights of fc1 and fc2, and biases, that begin at multiples of 16 bytes"
    if not native._C.conv_ffn_cuda_fits(x.shape[1], native.stream(x)[0]):
        return f"needs more shared memory for {x.shape[1]} channels than this device has"
    return None


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.conv_ffn,
    fake=_fake,
    kernels={
        "cuda": Kernel(_cuda, _cuda_refuses),
        "triton": launch.kernel(__package__, "forward"),
        "cpu": Kernel(_cpu, _cpu_refuses),
    },
    flops=_flops,
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor[]",
    reference=reference.conv_ffn_backward,
    fake=_fake_backward,
    kernels={
        "cuda": Kernel(_products_backward, _cuda_backward_refuses),
        "triton": Kernel(_products_backward, _triton_backward_refuses),
        "cpu": Kernel(_products_backward, _cpu_backward_refuses),
    },
    flops=_flops_backward,
)


def _backward(saved: tuple[Any, ...], residual: bool, grad: torch.Tensor) -> tuple[Any, ...]:
    return (*_backward_op(memory_format.as_format_of(grad, saved[0]), *saved, residual), None)


define_autograd(NAME, save=lambda inputs, output: (inputs[:7], inputs[7]), backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME, lambda low, *args: tuple(low(a) for a in args))
define_vmap(NAME)


def conv_ffn(
    x: torch.Tensor,
    fc1_weight: torch.Tensor,
    fc1_bias: torch.Tensor,
    dw_weight: torch.Tensor,
    dw_bias: torch.Tensor,
    fc2_weight: torch.Tensor,
    fc2_bias: torch.Tensor,
    residual: bool = False,
    recompute: bool = True,
) -> torch.Tensor:
    """Convolutional feed-forward network: 1x1, depthwise 3x3, exact GELU, 1x1.

    Same as ``conv1x1(gelu(dw3x3(conv1x1(x))))``, plus x if ``residual``. On a GPU 16-bit inputs of up to 320 channels,
    all widths multiples of 8, take one CUDA kernel, in which the hidden tensor is never in memory; others Triton's.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        fc1_weight: (E, C, 1, 1); fc1_bias: (E,).
        dw_weight: (E, 1, 3, 3); dw_bias: (E,).
        fc2_weight: (Co, E, 1, 1); fc2_bias: (Co,).
        residual: add x to the result (Co = C): inference, with layer scale folded into fc2.
        recompute: in training save x alone and recompute the hidden tensors in the backward;
            False keeps them (faster, E / C times the memory).

    Returns:
        (N, Co, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64).

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs.

    Source: SegNeXt (arXiv 2209.08575), section 3.1 (the feed-forward network of VAN, arXiv 2202.09741).
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    c = x.shape[1]
    checks.expect_shape(NAME, "fc1_weight", fc1_weight, ("E", c, 1, 1), f"x is {tuple(x.shape)}")
    e, co = fc1_weight.shape[0], c if residual else "Co"
    checks.expect_shape(NAME, "dw_weight", dw_weight, (e, 1, 3, 3), f"fc1_weight gives {e} channels")
    checks.expect_shape(
        NAME,
        "fc2_weight",
        fc2_weight,
        (co, e, 1, 1),
        "a residual needs as many channels as x" if residual else "",
    )
    for name, bias, weight in (
        ("fc1_bias", fc1_bias, fc1_weight),
        ("dw_bias", dw_bias, dw_weight),
        ("fc2_bias", fc2_bias, fc2_weight),
    ):
        checks.expect_shape(NAME, name, bias, weight.shape[:1], "pass zeros for none" if bias is None else "")
    params = (fc1_weight, fc1_bias, dw_weight, dw_bias, fc2_weight, fc2_bias)
    names = ("fc1_weight", "fc1_bias", "dw_weight", "dw_bias", "fc2_weight", "fc2_bias")
    for name, tensor in zip(names, params, strict=True):
        checks.expect_like(NAME, name, tensor, "x", x)
    if not recompute and torch.is_grad_enabled():
        hidden = dwconv_gelu(pointwise(x, fc1_weight, fc1_bias), dw_weight, dw_bias)
        out = pointwise(hidden, fc2_weight, fc2_bias)
        return memory_format.as_format_of(out + x.to(out.dtype) if residual else out, x)
    return _op(x, *params, residual)
