"""group_norm_act: GroupNorm, an optional residual and ReLU in one pass over the pixels."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels import checks, memory_format, native
from segnext_kernels.backend import Kernel
from segnext_kernels.ops.group_norm_act import reference
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton import launch

NAME = "group_norm_act"
ACTS = ("relu", "none")
MOST_PIXELS_CUDA = 2**30  # pixels are counted in 32 bits


def _fake(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return memory_format.empty_like(x)


def _fake_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    eps: float,
    act: str,
    residual: bool,
) -> list[torch.Tensor]:
    grads = [memory_format.empty_like(x), weight.new_empty(weight.shape), weight.new_empty(weight.shape)]
    return [*grads, memory_format.empty_like(x)] if residual else grads


def _cpu_refuses(x: torch.Tensor, *_: Any) -> str | None:
    return native.cpu_refuses(x, native.CPU_DTYPES)


def _cpu_passed_over(x: torch.Tensor, *_: Any) -> str | None:
    # measured at (1, 256, 64, 64): its chunks are pixels, which a contiguous tensor has to be transposed for
    if memory_format.format_of(x) == torch.channels_last:
        return None
    return "PyTorch is twice as fast on contiguous tensors"


def _cpu_backward_refuses(grad: torch.Tensor, *args: Any) -> str | None:
    return _cpu_refuses(*args)


def run(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    act: str,
    out: torch.Tensor,
) -> None:
    """The CPU kernel into ``out``, which may be x or the residual."""
    native._C.group_norm_act_cpu(
        native.DTYPES[x.dtype],
        native.DTYPES[weight.dtype],
        native.view(x),
        groups,
        native.view(weight),
        native.view(bias),
        eps,
        native.view(residual),
        act == "relu",
        native.view(out),
        native.instruction_set(),
        torch.get_num_threads(),
    )


def _cpu(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    act: str,
) -> torch.Tensor:
    out = memory_format.empty_like(x)
    run(x, groups, weight, bias, eps, residual, act, out)
    return out


def _cpu_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    eps: float,
    act: str,
    residual: bool,
) -> list[torch.Tensor]:
    grads = _fake_backward(grad, x, out, groups, weight, eps, act, residual)
    grad_residual = grads[3] if residual else None
    native._C.group_norm_act_backward_cpu(
        native.DTYPES[x.dtype],
        native.DTYPES[weight.dtype],
        native.view(grad),
        native.view(x),
        native.view(out),
        groups,
        native.view(weight),
        eps,
        act == "relu",
        *(native.view(t) for t in (*grads[:3], grad_residual)),
        native.instruction_set(),
        torch.get_num_threads(),
    )
    return grads


def _cuda_refuses(x: torch.Tensor, *_: Any) -> str | None:
    if x.shape[2] * x.shape[3] > MOST_PIXELS_CUDA:
        return f"takes up to {MOST_PIXELS_CUDA} pixels an image, not {x.shape[2] * x.shape[3]}"
    return native.cuda_refuses(x, native.CUDA_DTYPES)


def _cuda_backward_refuses(grad: torch.Tensor, *args: Any) -> str | None:
    return _cuda_refuses(*args)


def _cuda(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    act: str,
) -> torch.Tensor:
    out = memory_format.empty_like(x)
    native.check_launch(
        native._C.group_norm_act_cuda(
            native.DTYPES[x.dtype],
            native.DTYPES[weight.dtype],
            native.view(x),
            groups,
            native.view(weight),
            native.view(bias),
            eps,
            native.view(residual),
            act == "relu",
            native.view(out),
            *native.stream(x),
            native.Workspace(x),
        ),
        NAME,
    )
    return out


def _cuda_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    eps: float,
    act: str,
    residual: bool,
) -> list[torch.Tensor]:
    grads = _fake_backward(grad, x, out, groups, weight, eps, act, residual)
    grad_residual = grads[3] if residual else None
    native.check_launch(
        native._C.group_norm_act_backward_cuda(
            native.DTYPES[x.dtype],
            native.DTYPES[weight.dtype],
            native.view(grad),
            native.view(x),
            native.view(out),
            groups,
            native.view(weight),
            eps,
            act == "relu",
            *(native.view(t) for t in (*grads[:3], grad_residual)),
            *native.stream(x),
            native.Workspace(x),
        ),
        f"{NAME}_backward",
    )
    return grads


_op = define_op(
    NAME,
    "(Tensor x, int groups, Tensor weight, Tensor bias, float eps, Tensor? residual, str act) -> Tensor",
    reference=reference.group_norm_act,
    fake=_fake,
    kernels={
        "cuda": Kernel(_cuda, _cuda_refuses),
        "triton": launch.kernel(__package__, "forward"),
        "cpu": Kernel(_cpu, _cpu_refuses, _cpu_passed_over),
    },
    flops=lambda *args, **_: 0,  # element-wise work: not counted by convention
)
_backward_op = define_op(
    f"{NAME}_backward",
    "(Tensor grad, Tensor x, Tensor out, int groups, Tensor weight, float eps, str act, bool residual) -> Tensor[]",
    reference=reference.group_norm_act_backward,
    fake=_fake_backward,
    kernels={
        "cuda": Kernel(_cuda_backward, _cuda_backward_refuses),
        "triton": launch.kernel(__package__, "backward", position=1),
        "cpu": Kernel(_cpu_backward, _cpu_backward_refuses, lambda grad, x, *_: _cpu_passed_over(x)),
    },
    flops=lambda *args, **_: 0,
)


def _save(inputs: tuple[Any, ...], output: Any) -> tuple[tuple[Any, ...], Any]:
    x, groups, weight, _, eps, residual, act = inputs
    return (x, output, weight), (groups, eps, act, residual is not None)


def _backward(saved: tuple[Any, ...], other: tuple[Any, ...], grad: torch.Tensor) -> tuple[Any, ...]:
    x, out, weight = saved
    groups, eps, act, residual = other
    grads = _backward_op(memory_format.as_format_of(grad, x), x, out, groups, weight, eps, act, residual)
    return grads[0], None, grads[1], grads[2], None, grads[3] if residual else None, None


define_autograd(NAME, save=_save, backward=_backward)
forbid_double_backward(NAME)
# Statistics and affine parameters stay as they are: only the activations go to the low precision.
define_autocast(
    NAME,
    lambda low, x, groups, weight, bias, eps, residual, act: (
        low(x),
        groups,
        weight,
        bias,
        eps,
        low(residual),
        act,
    ),
)
define_vmap(NAME)


def group_norm_act(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    act: str = "relu",
) -> torch.Tensor:
    """GroupNorm, an optional residual, and ReLU: ``act(GN(x) + residual)``.

    Same as ``F.relu(F.group_norm(x, groups, weight, bias, eps) + residual)``.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        groups: number of groups, a divisor of C.
        weight: (C,), float32 or x's dtype.
        bias: (C,), weight's dtype.
        eps: added to the variance.
        residual: (N, C, H, W) in x's dtype, added before the activation; or None.
        act: "relu" or "none".

    Returns:
        (N, C, H, W) in x's dtype and memory format; statistics in float32 (float64 for float64).

    Raises:
        ValueError: shapes or choices disagree. TypeError: dtypes. NotImplementedError: no backend takes these inputs.

    Source: Group Normalization (arXiv 1803.08494); its place in SegNeXt's decoder: arXiv 2209.08575, section 3.2.
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    c = x.shape[1]
    if groups < 1 or c % groups:
        raise ValueError(f"{NAME}: groups must be a divisor of the {c} channels of x, got {groups}")
    checks.expect_shape(NAME, "weight", weight, (c,))
    checks.expect_shape(NAME, "bias", bias, (c,))
    checks.expect_shape(NAME, "residual", residual, x.shape, "a residual has x's shape", optional=True)
    checks.expect_choice(NAME, "act", act, ACTS)
    for name, tensor in (("weight", weight), ("bias", bias), ("residual", residual)):
        checks.expect_device(NAME, name, tensor, "x", x)
    checks.expect_like(NAME, "residual", residual, "x", x)
    if weight.dtype not in (x.dtype, memory_format.accumulator_dtype(x.dtype)) or bias.dtype != weight.dtype:
        raise TypeError(
            f"{NAME}: weight and bias must both be float32 or both {x.dtype} as x,"
            f" got {weight.dtype} and {bias.dtype}; convert them with .to()"
        )
    return _op(x, groups, weight, bias, eps, residual, act)
