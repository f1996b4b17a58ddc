"""gated_pointwise: a 1x1 convolution multiplied into a second tensor, SegNeXt's attention product."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks, memory_format, native
from segnext_kernels.backend import Kernel
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.gated_pointwise import reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton import launch

NAME = "gated_pointwise"
ARGUMENTS = "Tensor m, Tensor u, Tensor weight, Tensor? bias"


def _fake(m: torch.Tensor, u: torch.Tensor, *_: Any) -> torch.Tensor:
    return memory_format.empty_like(u)


def _fake_backward(
    grad: torch.Tensor, m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    params = [weight] if bias is None else [weight, bias]
    return [memory_format.empty_like(m), memory_format.empty_like(u), *(p.new_empty(p.shape) for p in params)]


def _flops(m: Any, u: Any, weight: Any, *_: Any, **__: Any) -> int:
    return convolution_flops(m, weight)


def _flops_backward(grad: Any, m: Any, u: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * convolution_flops(m, weight)


def _cpu_refuses(m: torch.Tensor, *_: Any) -> str | None:
    return native.cpu_refuses(m, native.CPU_DTYPES)


def _cpu_backward_refuses(grad: torch.Tensor, *args: Any) -> str | None:
    return _cpu_refuses(*args)


def _cpu(m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out = memory_format.empty_like(u)
    views = [native.view(t) for t in (m, u, weight, bias, out)]
    native._C.gated_pointwise_cpu(
        native.DTYPES[m.dtype], *views, native.instruction_set(), torch.get_num_threads()
    )
    return out


def _cpu_backward(
    grad: torch.Tensor, m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    grads = _fake_backward(grad, m, u, weight, bias)
    grad_bias = None if bias is None else grads[3]
    views = [native.view(t) for t in (m, u, weight, bias, grad, *grads[:3], grad_bias)]
    native._C.gated_pointwise_backward_cpu(
        native.DTYPES[m.dtype], *views, native.instruction_set(), torch.get_num_threads()
    )
    return grads


def _cuda_refuses(m: torch.Tensor, *_: Any) -> str | None:
    return native.cuda_refuses(m, native.CUDA_DTYPES)


def _cuda_backward_refuses(grad: torch.Tensor, *args: Any) -> str | None:
    return _cuda_refuses(*args)


def _cuda(m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out = memory_format.empty_like(u)
    views = [native.view(t) for t in (m, u, weight, bias, out)]
    status = native._C.gated_pointwise_cuda(native.DTYPES[m.dtype], *views, *native.stream(m))
    native.check_launch(status, NAME)
    return out


def _cuda_backward(
    grad: torch.Tensor, m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    grads = _fake_backward(grad, m, u, weight, bias)
    grad_bias = None if bias is None else grads[3]
    views = [native.view(t) for t in (m, u, weight, bias, grad, *grads[:3], grad_bias)]
    status = native._C.gated_pointwise_backward_cuda(
        native.DTYPES[m.dtype], *views, *native.stream(m), native.Workspace(m)
    )
    native.check_launch(status, f"{NAME}_backward")
    return grads


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.gated_pointwise,
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
    reference=reference.gated_pointwise_backward,
    fake=_fake_backward,
    kernels={
        "cuda": Kernel(_cuda_backward, _cuda_backward_refuses),
        "triton": launch.kernel(__package__, "backward", position=1),
        "cpu": Kernel(_cpu_backward, _cpu_backward_refuses),
    },
    flops=_flops_backward,
)


def _backward(saved: tuple[Any, ...], _: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    m, u, weight, bias = saved
    grads = _backward_op(memory_format.as_format_of(grad, u), m, u, weight, bias)
    return (*grads[:3], None if bias is None else grads[3])


define_autograd(NAME, save=lambda inputs, output: (inputs, None), backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME, lambda low, *args: tuple(low(a) for a in args))
define_vmap(NAME)


def gated_pointwise(
    m: torch.Tensor, u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """1x1 convolution and gate: ``(W m + b) * u``, the tail of SegNeXt's attention.

    Same as ``F.conv2d(m, weight, bias) * u``.

    Args:
        m: (N, Ci, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        u: (N, Co, H, W), same dtype.
        weight: (Co, Ci, 1, 1).
        bias: (Co,) or None.

    Returns:
        (N, Co, H, W) in u's dtype and memory format; accumulated in float32 (float64 for float64).

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs.

    Source: SegNeXt (arXiv 2209.08575), eq. 2.
    """
    checks.expect_floating(NAME, "m", m, 4, "(N, Ci, H, W)")
    checks.expect_floating(NAME, "u", u, 4, "(N, Co, H, W)")
    n, ci, h, w = m.shape
    co = u.shape[1]
    checks.expect_shape(NAME, "u", u, (n, "Co", h, w), f"m is {tuple(m.shape)}: batch and pixels must agree")
    checks.expect_shape(
        NAME, "weight", weight, (co, ci, 1, 1), f"m is {tuple(m.shape)}, u is {tuple(u.shape)}"
    )
    checks.expect_shape(NAME, "bias", bias, (co,), optional=True)
    for name, tensor in (("u", u), ("weight", weight), ("bias", bias)):
        checks.expect_like(NAME, name, tensor, "m", m)
    return _op(m, u, weight, bias)
