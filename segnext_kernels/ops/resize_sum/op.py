"""resize_sum: adds bilinearly resized tensors to one of the result's size, for inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from segnext_kernels import checks, memory_format, native
from segnext_kernels.backend import Kernel
from segnext_kernels.ops.resize_sum import reference
from segnext_kernels.registration import define_autocast, define_op, define_vmap, forbid_gradient
from segnext_kernels.triton import launch

NAME = "resize_sum"
TRITON_MOST = 3
CPU_MOST = 4  # csrc/ops/resize_sum/resize_sum.h


def _fake(base: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
    return memory_format.empty_like(base)


def _cpu_refuses(base: torch.Tensor, others: list[torch.Tensor]) -> str | None:
    if len(others) > CPU_MOST:
        return f"takes up to {CPU_MOST} others, not {len(others)}"
    if any(t.numel() and not (memory_format.is_channels_last(t) or t.shape[1] == 1) for t in (base, *others)):
        return "takes channels_last tensors; use reference, or .contiguous(memory_format=torch.channels_last)"
    return native.cpu_refuses(base, (torch.float32, torch.bfloat16))


def run(base: torch.Tensor, others: Sequence[torch.Tensor], out: torch.Tensor) -> None:
    """The CPU kernel into ``out``, which may be ``base``."""
    native._C.resize_sum_cpu(
        native.DTYPES[base.dtype], native.view(base), [native.view(t) for t in others], native.view(out),
        native.instruction_set(), torch.get_num_threads(),
    )  # fmt: skip


def _cpu(base: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
    out = memory_format.empty_like(base)
    run(base, others, out)
    return out


def _triton_refuses(base: torch.Tensor, others: list[torch.Tensor]) -> str | None:
    return f"takes up to {TRITON_MOST} others, not {len(others)}" if len(others) > TRITON_MOST else None


_op = define_op(
    NAME,
    "(Tensor base, Tensor[] others) -> Tensor",
    reference=reference.resize_sum,
    fake=_fake,
    kernels={
        "triton": launch.kernel(__package__, "forward", refuses_more=_triton_refuses),
        "cpu": Kernel(_cpu, _cpu_refuses),
    },
    flops=lambda *args, **_: 0,  # resizing and adding: not counted by convention
)
forbid_gradient(NAME, "train with torch.nn.functional.interpolate")
define_autocast(NAME, lambda low, base, others: (low(base), low(others)))
define_vmap(NAME)


def resize_sum(base: torch.Tensor, others: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of ``base`` and of all others, resized bilinearly to its size, for inference.

    Same as ``base + sum(F.interpolate(t, base.shape[2:], mode="bilinear") for t in others)``, rounded once.

    Args:
        base: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        others: (N, C, h, w) each, of any h and w, in base's dtype.

    Returns:
        (N, C, H, W) in base's dtype and memory format; summed in float32 (float64 for float64), in the order given.
        No gradient.

    Raises:
        ValueError: shapes disagree. TypeError: dtypes. NotImplementedError: no backend takes these inputs, or a
            gradient is asked for.

    Source: a 1x1 convolution of concatenated, resized features is such a sum: SegNeXt's decoder (arXiv 2209.08575).
    """
    checks.expect_floating(NAME, "base", base, 4, "(N, C, H, W)")
    n, c = base.shape[:2]
    for index, other in enumerate(others):
        name = f"others[{index}]"
        checks.expect_floating(NAME, name, other, 4, "(N, C, h, w)")
        checks.expect_shape(NAME, name, other, (n, c, "h", "w"), f"base is {tuple(base.shape)}")
        checks.expect_like(NAME, name, other, "base", base)
    return _op(base, list(others))
