"""Finds Triton, says in one sentence what is missing, and launches its kernels.

Triton is imported when the first tensor needs it, so `import segnext_kernels` stays light.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

from segnext_kernels.kernel import Kernel, dtype_names
from segnext_kernels.triton.tuning import Config

OLDEST = (3, 6)  # the oldest version that was seen to compile the kernels
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
OLDEST_CAPABILITY = (8, 0)  # for bfloat16 arithmetic and asynchronous copies


@functools.cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors; the first call decides for the process."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def missing() -> str | None:
    """Why Triton cannot be used at all, with the remedy; None if it can."""
    oldest = ".".join(map(str, OLDEST))
    if importlib.util.find_spec("triton") is None:
        return f"not installed; pip install 'triton>={oldest}' (a CUDA build of torch brings it)"
    try:
        version = importlib.import_module("triton").__version__
    except Exception as error:  # a broken installation can fail in many ways
        return f"does not import ({type(error).__name__}: {error}); pip install --force-reinstall triton"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        return f"needs Triton {oldest} or newer, this is {version}; a newer torch brings it"
    return None


def _current_capability() -> tuple[int, int]:
    if interpreted() or torch.version.hip:
        return OLDEST_CAPABILITY
    return torch.cuda.get_device_capability()


@functools.cache
def _capability_gap(device: torch.device) -> str | None:
    if torch.version.hip:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) >= OLDEST_CAPABILITY:
        return None
    return f"needs compute capability 8.0 or newer, this device is {major}.{minor}; use another backend"


def reason_against(x: torch.Tensor, dtypes: tuple[torch.dtype, ...] = DTYPES) -> str | None:
    """Why no Triton kernel takes ``x`` on this machine."""
    if interpreted():
        if x.device.type != "cpu":
            return f"TRITON_INTERPRET=1 interprets kernels on CPU tensors, not {x.device.type}; unset it"
    elif x.device.type != "cuda":
        remedy = "; TRITON_INTERPRET=1 interprets kernels on CPU tensors" if x.device.type == "cpu" else ""
        return f"takes CUDA tensors, not {x.device.type}{remedy}"
    if x.dtype not in dtypes:
        return f"takes {dtype_names(dtypes)}, not {dtype_names((x.dtype,))}"
    return missing() or (_capability_gap(x.device) if x.device.type == "cuda" else None)


def _slower(*args: Any) -> str | None:
    return "the interpreter is for tests: thousands of times slower" if interpreted() else None


def kernel(run: Callable[..., Any], position: int = 0, **rest: Any) -> Kernel:
    """The backend "triton" of an op; ``rest`` as in `Kernel`."""
    return Kernel(
        run,
        DTYPES,
        position,
        "cuda",
        machine=lambda x, dtypes: reason_against(x, dtypes),
        slower=_slower,
        **rest,
    )


def kernel_of(package: str | None, function: str, position: int = 0, **rest: Any) -> Kernel:
    """The backend "triton" of an op by its own Triton kernels, which are imported at the first call.

    Args:
        package: the op's package, its ``__package__``.
        function: of its module ``triton_kernels``; takes the op's arguments in schema order.
        position, rest: as in `Kernel`.
    """

    def run(*args: Any) -> Any:
        module = importlib.import_module(f"{package}.triton_kernels")
        device = args[position].device
        guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        with guard:  # Triton launches on the current device and its current stream
            return getattr(module, function)(*args)

    return kernel(run, position, **rest)


def start(function: Any, grid: tuple[int, ...], *args: Any, config: Config, **constants: Any) -> None:
    """Start a kernel on the current stream. Every kernel is started here and nowhere else.

    Args:
        args: tensors and numbers, in the kernel's order.
        config: the tile sizes, warps and pipeline stages.
        constants: the kernel's other ``tl.constexpr`` parameters.
    """
    options = config.options(_current_capability() if config.max_registers else OLDEST_CAPABILITY)
    function[grid](*args, **dict(config.sizes), **constants, **options)
