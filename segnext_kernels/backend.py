"""Which kernel runs: the setting, the choice on real tensors, and the reasons behind it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch

from segnext_kernels import self_check
from segnext_kernels.kernel import KERNELS, Kernel, dtype_name

# Order of preference under "auto". CUDA comes before Triton because its kernels hold rows and state in registers and
# shared memory that Triton cannot index: one launch for msca_conv instead of three, one for all steps of nmf2d. This is
# reasoned, and `Kernel.slower` has the exceptions; `python -m bench.campaign` times both on a GPU, and its results
# decide, op by op.
BACKENDS = ("cuda", "triton", "cpu", "reference")
SETTINGS = ("auto", *BACKENDS)

_setting: ContextVar[str | None] = ContextVar("segnext_backend", default=None)


def _checked(setting: str, source: str) -> str:
    if setting not in SETTINGS:
        raise ValueError(f"{source} must be one of {', '.join(SETTINGS)}, got {setting!r}")
    return setting


def current_backend() -> str:
    """The setting in force: `use_backend`, else the variable SEGNEXT_BACKEND, else "auto"."""
    setting = _setting.get()
    if setting is not None:
        return setting
    return _checked(os.environ.get("SEGNEXT_BACKEND") or "auto", "SEGNEXT_BACKEND")


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the ``with`` block, and the backward of what was computed in it, on one backend.

    A named backend never falls back: inputs it does not take raise NotImplementedError with the reasons.

    Args:
        name: "auto", "cuda", "triton", "cpu" or "reference".
    """
    token = _setting.set(_checked(name, "use_backend: name"))
    try:
        yield
    finally:
        _setting.reset(token)


def select(op: str, args: tuple[Any, ...]) -> Kernel:
    """The kernel that takes ``args`` under the current setting."""
    kernels = KERNELS[op]
    setting = current_backend()
    if setting == "auto":
        on_cpu = args[0].is_cpu
        for name, kernel in kernels.items():
            if on_cpu and kernel.device == "cuda":
                continue  # a refusal without its words, which cost microseconds
            if kernel.reason_against(*args) is None and _left_out(op, name, kernel, args) is None:
                return kernel
    elif setting in kernels and kernels[setting].reason_against(*args) is None:
        return kernels[setting]
    raise NotImplementedError(explain(op, *args))


def _left_out(op: str, name: str, kernel: Kernel, args: tuple[Any, ...]) -> str | None:
    """Why "auto" leaves inputs that this kernel takes to the next one."""
    slower = kernel.reason_to_pass(*args)
    if slower is not None:
        return f"passes it over: {slower}"
    wrong = self_check.distrusted(op, name, args)
    return None if wrong is None else f"leaves it out, it {wrong}"


def would_take(op: str, name: str, args: tuple[Any, ...]) -> bool:
    """Whether "auto" takes ``args`` to this backend where no other one comes first."""
    kernel = KERNELS[op].get(name)
    return (
        kernel is not None
        and kernel.reason_against(*args) is None
        and _left_out(op, name, kernel, args) is None
    )


def definitions() -> dict[Any, Callable[..., Any]]:
    """Every registered operator -> its definition in plain PyTorch: a decomposition table for torch.export."""
    return {
        getattr(torch.ops.segnext_kernels, op).default: kernels["reference"].run
        for op, kernels in KERNELS.items()
    }


def choose(op: str, *args: Any) -> str:
    """Name of the backend that would run ``op`` (such as "msca_conv") on these arguments, in schema order."""
    chosen = select(op, args)
    return next(name for name, kernel in KERNELS[op].items() if kernel is chosen)


def explain(op: str, *args: Any) -> str:
    """Why each backend takes or refuses these arguments, one line per backend."""
    setting = current_backend()
    lines, chosen = [], None
    for name in BACKENDS:
        kernel = KERNELS[op].get(name)
        reason = "this op has no kernel for it" if kernel is None else kernel.reason_against(*args)
        if reason is None:
            left_out = _left_out(op, name, kernel, args) if kernel is not None and setting == "auto" else None
            if left_out is not None:
                reason = f"available; auto {left_out}"
            elif setting in ("auto", name):
                chosen = chosen or name
                reason = "takes these inputs"
            else:
                reason = f'available; not used because use_backend("{setting}") is in force'
        lines.append(f"  {name + ':':<11}{reason}")
    tensors = ", ".join(describe(a) for a in args if isinstance(a, torch.Tensor))
    head = f"{op}: {chosen} takes" if chosen else f"{op}: no backend takes"
    return "\n".join([f"{head} {tensors}", *lines])


def describe(tensor: torch.Tensor) -> str:
    """Shape, dtype, device and layout in words, for messages."""
    words = [str(tuple(tensor.shape)), dtype_name(tensor.dtype), tensor.device.type]
    if tensor.ndim == 4 and not tensor.is_contiguous():
        is_nhwc = tensor.is_contiguous(memory_format=torch.channels_last)
        words.append("channels_last" if is_nhwc else f"strides {tensor.stride()}")
    return " ".join(words)
