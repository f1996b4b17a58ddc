"""Finds and loads the compiled library `_C`, and says in one sentence what is missing."""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch  # before _C: loads the OpenMP runtime that _C shares: one thread pool

RECORD = Path(__file__).with_name("_build.json")
CPU_DTYPES = (torch.float32, torch.bfloat16, torch.float64)  # of setup.py's FLOAT64_OPS
CUDA_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}  # csrc/cpu/convert.h
INSTRUCTION_SETS = ("generic", "avx2", "avx512", "avx512bf16")  # csrc/common/isa.h


def _load() -> tuple[Any, str]:
    try:
        return importlib.import_module("segnext_kernels._C"), ""
    except ModuleNotFoundError:
        return None, ""
    except ImportError as error:
        # _C is linked without an OpenMP library so that it joins torch's; a torch whose runtime is not
        # visible globally leaves these symbols open, and the system's libgomp serves.
        if "GOMP_" not in str(error) and "omp_" not in str(error):
            return None, str(error)
    try:
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("segnext_kernels._C"), ""
    except (OSError, ImportError) as error:
        return None, str(error)


_C, _load_error = _load()


@functools.cache
def build_record() -> dict[str, Any]:
    """What the last build made and left out: compilers, flags, instruction sets, architectures, reasons."""
    if not RECORD.exists():
        return {"mode": "none", "skipped": {"cpu": "not built", "cuda": "not built"}}
    return json.loads(RECORD.read_text())


def missing(part: str) -> str | None:
    """Why "cpu" or "cuda" kernels are absent, with the remedy; None where they are built."""
    skipped = build_record()["skipped"]
    if _C is None:
        reason = _load_error or skipped.get("cpu", "not built")
        return f"the compiled library is missing ({reason}); install a C++ compiler and run `pip install .` again"
    if part == "cuda" and not _C.HAS_CUDA:
        reason = skipped.get("cuda", "not built")
        return f"built without CUDA ({reason}); install nvcc and run `SEGNEXT_BUILD=cuda pip install .`"
    return None


@functools.cache
def instruction_set() -> int:
    """Index into INSTRUCTION_SETS of the CPU kernels in use: the machine's best, or SEGNEXT_CPU_ISA's."""
    best = int(_C.best_instruction_set())
    wanted = os.environ.get("SEGNEXT_CPU_ISA")
    if not wanted:
        return best
    if wanted not in INSTRUCTION_SETS:
        raise ValueError(f"SEGNEXT_CPU_ISA must be one of {', '.join(INSTRUCTION_SETS)}, got {wanted!r}")
    index = INSTRUCTION_SETS.index(wanted)
    if index > best:
        raise ValueError(
            f"SEGNEXT_CPU_ISA: {wanted} is not built here or not on this machine; best: {INSTRUCTION_SETS[best]}"
        )
    return index


@functools.cache
def architecture_gap(device: torch.device) -> str | None:
    """Why no built CUDA code runs on this device, with the remedy; None where some does."""
    major, minor = torch.cuda.get_device_capability(device)
    built = build_record()["cuda"]["architectures"]
    # machine code runs on its own major version from its minor on; PTX on everything newer
    for name in built:
        arch_major, arch_minor = (int(part) for part in name.removesuffix("+PTX").split("."))
        if (arch_major == major and arch_minor <= minor) or (
            name.endswith("+PTX") and (arch_major, arch_minor) <= (major, minor)
        ):
            return None
    return (
        f"built for {' and '.join(built)}, this device is {major}.{minor};"
        f" rebuild with TORCH_CUDA_ARCH_LIST={major}.{minor} or use Triton"
    )


def check_launch(status: int, op: str) -> None:
    """Raise on a CUDA launcher's non-zero status."""
    if status:
        raise RuntimeError(f"{op}: CUDA launch failed: {_C.cuda_error(status)}")


def stream(tensor: torch.Tensor) -> tuple[int, int]:
    """Where a CUDA launcher runs: the tensor's device and PyTorch's current stream there.

    (0, 0) for a CPU tensor, which only the tests' emulator of CUDA takes.
    """
    if tensor.device.type != "cuda":
        return 0, 0
    return tensor.get_device(), torch.cuda.current_stream(tensor.device).cuda_stream


class Workspace:
    """Device memory of one launch: the library calls it with the bytes it needs and gets an address."""

    def __init__(self, like: torch.Tensor) -> None:
        self._device = like.device
        self._memory: torch.Tensor | None = None

    def __call__(self, size: int) -> int:
        self._memory = torch.empty(size, dtype=torch.uint8, device=self._device)
        return self._memory.data_ptr()


def view(tensor: torch.Tensor | None) -> tuple[int, torch.Size, tuple[int, ...]] | None:
    """A tensor as the compiled library takes it: address, sizes, strides in elements."""
    return None if tensor is None else (tensor.data_ptr(), tensor.shape, tensor.stride())


def strips_refused(
    root_weight: torch.Tensor,
    strip_weights: list[torch.Tensor],
    most_root: int | None = None,
    most_taps: int | None = None,
) -> str | None:
    """Why compiled kernels do not take these depthwise kernels: more or longer than they have room for.

    Without ``most_root`` and ``most_taps`` those of the CPU's.
    """
    most_root = most_root or _C.MSCA_CONV_MAX_ROOT
    most_taps = most_taps or _C.MSCA_CONV_MAX_TAPS
    if len(strip_weights) > _C.MSCA_CONV_MAX_STRIPS:
        return f"takes up to {_C.MSCA_CONV_MAX_STRIPS} strip weights, not {len(strip_weights)}"
    if root_weight.shape[2] > most_root:
        return f"takes roots of up to {most_root} taps a side, not {root_weight.shape[2]}"
    longest = max((max(weight.shape[2:]) for weight in strip_weights), default=0)
    if longest > most_taps:
        return f"takes strips of up to {most_taps} taps, not {longest}"
    return None


def packed_memory(size: int) -> torch.Tensor:
    """Uninitialised bytes at a multiple of 64, where packed weights begin."""
    memory = torch.empty(size + 64, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    return memory[start : start + size]


def cpu_refuses(x: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why the CPU kernels of an op with these dtypes do not take ``x``."""
    return _refuses(x, "cpu", dtypes) or missing("cpu")


def cuda_refuses(x: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why the CUDA kernels of an op with these dtypes do not take ``x``."""
    return _refuses(x, "cuda", dtypes) or missing("cuda") or architecture_gap(x.device)


def _refuses(x: torch.Tensor, device: str, dtypes: tuple[torch.dtype, ...]) -> str | None:
    if x.device.type != device:
        return f"takes {device.upper()} tensors, not {x.device.type}"
    if x.dtype not in dtypes:
        names = [str(dtype).removeprefix("torch.") for dtype in (*dtypes, x.dtype)]
        return f"takes {', '.join(names[:-2])} and {names[-2]}, not {names[-1]}"
    return None
