"""dwconv_gelu: a depthwise 3x3 convolution with GELU, the middle of SegNeXt's feed-forward network."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks, memory_format, native
from segnext_kernels.backend import Kernel
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.dwconv_gelu import reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton import launch

NAME = "dwconv_gelu"
ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias"


def _fake(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return memory_format.empty_like(x)


def _fake_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    params = [weight] if bias is None else [weight, bias]
    return [memory_format.empty_like(x), *(p.new_empty(p.shape) for p in params)]


def _flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return convolution_flops(x, weight)


def _flops_backward(grad: Any, x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * convolution_flops(x, weight)


def _cpu_refuses(x: torch.Tensor, *_: Any) -> str | None:
    return native.cpu_refuses(x, native.CPU_DTYPES)


def _cpu_backward_refuses(grad: torch.Tensor, *args: Any) -> str | None:
    return _cpu_refuses(*args)


def _cpu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out = memory_format.empty_like(x)
    views = [native.view(t) for t in (x, weight, bias, out)]
    native._C.dwconv_gelu_cpu(
        native.DTYPES[x.dtype], *views, native.instruction_set(), torch.get_num_threads()
    )
    return out


def _cpu_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    grads = _fake_backward(grad, x, weight, bias)
    grad_bias = None if bias is None else grads[2]
    views = [native.view(t) for t in (x, weight, bias, grad, *grads[:2], grad_bias)]
    native._C.dwconv_gelu_backward_cpu(
        native.DTYPES[x.dtype], *views, native.instruction_set(), torch.get_num_threads()
    )
    return grads


def _cuda_refuses(x: torch.Tensor, *_: Any) -> str | None:
    return native.cuda_refuses(x, native.CUDA_DTYPES)


def _cuda_backward_refuses(grad: torch.Tensor, *args: Any) -> str | None:
    return _cuda_refuses(*args)


def _cuda(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out = memory_format.empty_like(x)
    views = [native.view(t) for t in (x, weight, bias, out)]
    status = native._C.dwconv_gelu_cuda(native.DTYPES[x.dtype], *views, *native.stream(x))
    native.check_launch(status, NAME)
    return out


def _cuda_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    grads = _fake_backward(grad, x, weight, bias)
    grad_bias = None if bias is None else grads[2]
    views = [native.view(t) for t in (x, weight, bias, grad, *grads[:2], grad_bias)]
    workspace = native.Workspace(x)
    status = native._C.dwconv_gelu_backward_cuda(native.DTYPES[x.dtype], *views, *native.stream(x), workspace)
    native.check_launch(status, f"{NAME}_backward")
    return grads


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.dwconv_gelu,
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
    reference=reference.dwconv_gelu_backward,
    fake=_fake_backward,
    kernels={
        "cuda": Kernel(_cuda_backward, _cuda_backward_refuses),
        "triton": launch.kernel(__package__, "backward", position=1),
        "cpu": Kernel(_cpu_backward, _cpu_backward_refuses),
    },
    flops=_flops_backward,
)


def _backward(saved: tuple[Any, ...], _: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, weight, bias = saved
    grads = _backward_op(memory_format.as_format_of(grad, x), x, weight, bias)
    return (*grads[:2], None if bias is None else grads[2])


define_autograd(NAME, save=lambda inputs, output: (inputs, None), backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME, lambda low, *args: tuple(low(a) for a in args))
define_vmap(NAME)


def dwconv_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Depthwise 3x3 convolution (zero padding 1, stride 1) and exact GELU.

    Same as ``F.gelu(F.conv2d(x, weight, bias, padding=1, groups=C))``; saves x alone for the backward.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        weight: (C, 1, 3, 3).
        bias: (C,) or None.

    Returns:
        (N, C, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64).

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs.

    Source: SegNeXt (arXiv 2209.08575), section 3.1 (the feed-forward network of VAN, arXiv 2202.09741).
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    c = x.shape[1]
    checks.expect_shape(
        NAME,
        "weight",
        weight,
        (c, 1, 3, 3),
        f"x is {tuple(x.shape)}; depthwise weights have a singleton second axis",
    )
    checks.expect_shape(NAME, "bias", bias, (c,), optional=True)
    for name, tensor in (("weight", weight), ("bias", bias)):
        checks.expect_like(NAME, name, tensor, "x", x)
    return _op(x, weight, bias)
