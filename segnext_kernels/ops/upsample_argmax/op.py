"""upsample_argmax: from low-resolution logits to the label map, without logits at full size."""

from __future__ import annotations

import torch

from segnext_kernels import checks, native
from segnext_kernels.backend import Kernel
from segnext_kernels.ops.upsample_argmax import reference
from segnext_kernels.registration import define_op, define_vmap, forbid_gradient
from segnext_kernels.triton import launch

NAME = "upsample_argmax"


def _fake(logits: torch.Tensor, size: list[int]) -> torch.Tensor:
    n, k = logits.shape[:2]
    return logits.new_empty((n, *size), dtype=torch.uint8 if k <= 256 else torch.int32)


def _cpu_refuses(logits: torch.Tensor, size: list[int]) -> str | None:
    return native.cpu_refuses(logits, checks.FLOATING)


def _cpu(logits: torch.Tensor, size: list[int]) -> torch.Tensor:
    labels = _fake(logits, size)
    native._C.upsample_argmax_cpu(
        logits.data_ptr(), native.DTYPES[logits.dtype], logits.shape, logits.stride(), labels.data_ptr(), size,
        native.instruction_set(), torch.get_num_threads(),
    )  # fmt: skip
    return labels


def _cuda_refuses(logits: torch.Tensor, size: list[int]) -> str | None:
    return native.cuda_refuses(logits, native.CUDA_DTYPES)


def _cuda(logits: torch.Tensor, size: list[int]) -> torch.Tensor:
    labels = _fake(logits, size)
    native.check_launch(
        native._C.upsample_argmax_cuda(
            logits.data_ptr(), native.DTYPES[logits.dtype], logits.shape, logits.stride(), labels.data_ptr(), size,
            *native.stream(logits),
        ),
        NAME,
    )  # fmt: skip
    return labels


_op = define_op(
    NAME,
    "(Tensor logits, SymInt[2] size) -> Tensor",
    reference=reference.upsample_argmax,
    fake=_fake,
    kernels={
        "cpu": Kernel(_cpu, _cpu_refuses),
        "cuda": Kernel(_cuda, _cuda_refuses),
        "triton": launch.kernel(__package__, "forward"),
    },
    flops=lambda *args, **_: 0,  # resizing and comparing: not counted by convention
)
forbid_gradient(NAME, "labels are not differentiable; train with upsample_cross_entropy")
define_vmap(NAME)


def upsample_argmax(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Label map of bilinearly resized logits.

    Same as ``F.interpolate(logits.float(), size, mode="bilinear").argmax(1)``, in a few hundredths of its time:
    where one class is the largest at all four corners of a cell it is the largest inside it, and elsewhere only
    the classes that can win are interpolated. Classes closer than float32 rounding may come out either way.

    Args:
        logits: (N, K, h, w), any strides; float16, bfloat16, float32, float64 (compared in float32).
        size: (H, W), larger or smaller than (h, w).

    Returns:
        (N, H, W), uint8 for up to 256 classes, else int32. NaN counts as the largest, as in PyTorch. No gradient.

    Raises:
        ValueError, TypeError: as the message says. NotImplementedError: no backend takes these inputs.
    """
    checks.expect_floating(NAME, "logits", logits, 4, "(N, K, h, w)")
    return _op(logits, checks.expect_size(NAME, size))
