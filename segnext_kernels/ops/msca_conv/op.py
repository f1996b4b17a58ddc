"""msca_conv: the multi-scale strip convolution of SegNeXt's attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels import checks, memory_format, native
from segnext_kernels.backend import Kernel
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.msca_conv import reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton import launch

NAME = "msca_conv"
TRITON_MAX_STRIPS = 6  # three pairs, as SegNeXt has: the kernels name a sum for each
ARGUMENTS = "Tensor x, Tensor root_weight, Tensor? root_bias, Tensor[] strip_weights, Tensor[] strip_biases"


def _fake(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return memory_format.empty_like(x)


def _fake_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: list[torch.Tensor],
    strip_biases: list[torch.Tensor],
) -> list[torch.Tensor]:
    biases = [] if root_bias is None else [root_bias]
    params = [root_weight, *biases, *strip_weights, *strip_biases]
    return [memory_format.empty_like(x), *(p.new_empty(p.shape) for p in params)]


def _flops(x: Any, root_weight: Any, root_bias: Any, strip_weights: Any, *_: Any, **__: Any) -> int:
    return convolution_flops(x, root_weight) + sum(convolution_flops(x, w) for w in strip_weights)


def _flops_backward(
    grad: Any, x: Any, root_weight: Any, root_bias: Any, strips: Any, *_: Any, **__: Any
) -> int:
    # input and weight gradients of every convolution; the recomputed forward is not counted, as by convention
    return 2 * _flops(x, root_weight, root_bias, strips)


def _cpu_refuses(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: list[torch.Tensor],
    *_: Any,
) -> str | None:
    refusal = native.cpu_refuses(x, native.CPU_DTYPES)
    return refusal or native.strips_refused(root_weight, strip_weights)


def _cpu_backward_refuses(grad: torch.Tensor, *args: Any) -> str | None:
    return _cpu_refuses(*args)


def _triton_refuses(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: list[torch.Tensor],
    *_: Any,
) -> str | None:
    if len(strip_weights) > TRITON_MAX_STRIPS:
        return f"takes up to {TRITON_MAX_STRIPS} strip weights, not {len(strip_weights)}"
    return None


def _views(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: list[torch.Tensor],
    strip_biases: list[torch.Tensor],
) -> tuple[Any, ...]:
    single = [native.view(t) for t in (x, root_weight, root_bias)]
    lists = [[native.view(t) for t in tensors] for tensors in (strip_weights, strip_biases)]
    return (native.DTYPES[x.dtype], *single, *lists)


def _cpu(x: torch.Tensor, *params: Any) -> torch.Tensor:
    out = memory_format.empty_like(x)
    native._C.msca_conv_cpu(
        *_views(x, *params), native.view(out), native.instruction_set(), torch.get_num_threads()
    )
    return out


def _cpu_backward(grad: torch.Tensor, x: torch.Tensor, *params: Any) -> list[torch.Tensor]:
    grads = _fake_backward(grad, x, *params)
    native._C.msca_conv_backward_cpu(
        *_views(x, *params), native.view(grad), [native.view(g) for g in grads],
        native.instruction_set(), torch.get_num_threads(),
    )  # fmt: skip
    return grads


def _cuda_refuses(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: list[torch.Tensor],
    *_: Any,
) -> str | None:
    refusal = native.cuda_refuses(x, native.CUDA_DTYPES)
    if refusal is not None:
        return refusal
    most_root, most_taps = native._C.MSCA_CONV_MAX_ROOT_CUDA, native._C.MSCA_CONV_MAX_TAPS_CUDA
    return native.strips_refused(root_weight, strip_weights, most_root, most_taps)


def _cuda_backward_refuses(
    grad: torch.Tensor,
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: list[torch.Tensor],
    *_: Any,
) -> str | None:
    refusal = _cuda_refuses(x, root_weight, root_bias, strip_weights)
    if refusal is not None:
        return refusal
    most_root, most_taps = native._C.MSCA_CONV_MAX_ROOT_CUDA, native._C.MSCA_CONV_MAX_TAPS_BACKWARD_CUDA
    return native.strips_refused(root_weight, strip_weights, most_root, most_taps)


def _cuda(x: torch.Tensor, *params: Any) -> torch.Tensor:
    out = memory_format.empty_like(x)
    status = native._C.msca_conv_cuda(*_views(x, *params), native.view(out), *native.stream(x))
    native.check_launch(status, NAME)
    return out


def _cuda_backward(grad: torch.Tensor, x: torch.Tensor, *params: Any) -> list[torch.Tensor]:
    grads = _fake_backward(grad, x, *params)
    args = (*_views(x, *params), native.view(grad), [native.view(g) for g in grads])
    status = native._C.msca_conv_backward_cuda(*args, *native.stream(x), native.Workspace(x))
    native.check_launch(status, f"{NAME}_backward")
    return grads


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.msca_conv,
    fake=_fake,
    kernels={
        "cuda": Kernel(_cuda, _cuda_refuses),
        "triton": launch.kernel(__package__, "forward", refuses_more=_triton_refuses),
        "cpu": Kernel(_cpu, _cpu_refuses),
    },
    flops=_flops,
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor[]",
    reference=reference.msca_conv_backward,
    fake=_fake_backward,
    kernels={
        "cuda": Kernel(_cuda_backward, _cuda_backward_refuses),
        "triton": launch.kernel(
            __package__, "backward", position=1, refuses_more=lambda grad, *args: _triton_refuses(*args)
        ),
        "cpu": Kernel(_cpu_backward, _cpu_backward_refuses),
    },
    flops=_flops_backward,
)


def _save(inputs: tuple[Any, ...], output: Any) -> tuple[tuple[Any, ...], Any]:
    x, root_weight, root_bias, strip_weights, strip_biases = inputs
    return (x, root_weight, root_bias, *strip_weights, *strip_biases), len(strip_weights)


def _backward(saved: tuple[Any, ...], strips: int, grad: torch.Tensor) -> tuple[Any, ...]:
    x, root_weight, root_bias, *rest = saved
    weights, biases = rest[:strips], rest[strips:]
    grads = _backward_op(memory_format.as_format_of(grad, x), x, root_weight, root_bias, weights, biases)
    grad_x, grad_root_weight = grads[:2]
    tail = grads[2:] if root_bias is None else grads[3:]
    return grad_x, grad_root_weight, None if root_bias is None else grads[2], tail[:strips], tail[strips:]


define_autograd(NAME, save=_save, backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME, lambda low, *args: tuple(low(a) for a in args))
define_vmap(NAME)


def msca_conv(
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: Sequence[torch.Tensor],
    strip_biases: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Multi-scale strip convolution of SegNeXt: a depthwise root, then the sum of its strip branches.

    Same as ``a = dw(x, root); a + sum(dw(dw(a, row), column))``; every convolution zero-pads its own input.
    On a GPU, with SegNeXt's sizes in 16-bit types, tensor cores multiply zeros beside the taps too: a NaN or Inf
    in x spreads up to 22 rows and 34 columns away in its channel, instead of 12.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        root_weight: (C, 1, K, K), K odd (5 in SegNeXt).
        root_bias: (C,) or None.
        strip_weights: [row0 (C, 1, 1, K0), column0 (C, 1, K0, 1), row1, column1, ...], each K odd
            (7, 11, 21 in SegNeXt); any number of pairs.
        strip_biases: (C,) each, in the order of strip_weights; or empty.

    Returns:
        (N, C, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64).
        On tensor cores (16-bit types, SegNeXt's sizes) a NaN or Inf spreads further than the taps reach, within
        its channel; in the gradient of x up to 35 rows and 37 columns.

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these
            inputs; the reasons are listed.

    Source: SegNeXt (arXiv 2209.08575), eq. 1.
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    checks.expect_strips(NAME, x, root_weight, root_bias, strip_weights, strip_biases)
    return _op(x, root_weight, root_bias, list(strip_weights), list(strip_biases))
