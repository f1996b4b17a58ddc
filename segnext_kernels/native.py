"""The compiled library `_C`: finds and loads it, says what is missing, and calls its kernels."""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # before _C: loads the OpenMP runtime that _C shares: one thread pool

from segnext_kernels.kernel import Kernel, dtype_names
from segnext_kernels.memory_format import has_inner_channels

RECORD = Path(__file__).with_name("_build.json")
VERSION = Path(__file__).with_name("VERSION").read_text(encoding="utf-8").strip()
CPU_DTYPES = (torch.float32, torch.bfloat16, torch.float64)  # of the ops with a float64 build, for gradcheck
INFERENCE_DTYPES = (torch.float32, torch.bfloat16)  # of the ops without
CUDA_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}  # csrc/common/dtype.h
AS_THEY_ARE = frozenset(
    {int, float, bool, type(None), tuple, torch.Size}
)  # are passed to the library unchanged
INSTRUCTION_SETS = ("generic", "avx2", "avx512", "avx512bf16", "amx", "neon", "neonbf16")  # csrc/common/isa.h
TILES = INSTRUCTION_SETS.index("amx")
# Symbols of a library that wants an OpenMP runtime, and what that runtime is called: clang's code calls LLVM's, GCC's
# code calls GCC's.
OPENMP_RUNTIMES = {
    "__kmpc_": ("libomp.so.5", "libomp.so"),
    "GOMP_": ("libgomp.so.1",),
    "omp_": ("libgomp.so.1",),
}


def _load() -> tuple[Any, str]:
    try:
        return importlib.import_module("segnext_kernels._C"), ""
    except ModuleNotFoundError:
        return None, ""
    except ImportError as error:
        # _C is linked without an OpenMP library so that it joins torch's. These symbols stay open if torch's runtime
        # is not visible globally, or if it is GCC's and clang built _C: then the system's serves.
        names = next((names for symbol, names in OPENMP_RUNTIMES.items() if symbol in str(error)), ())
        if not names:
            return None, str(error)
    for name in names:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return importlib.import_module("segnext_kernels._C"), ""
        except (OSError, ImportError) as error:
            said = str(error)
    return None, f"its OpenMP runtime, {names[0]}, does not load: {said}"


@functools.cache
def build_record() -> dict[str, Any]:
    """What the last build made and left out: compilers, flags, instruction sets, architectures, reasons."""
    if not RECORD.exists():
        return {"mode": "none", "skipped": {"cpu": "not built", "cuda": "not built"}}
    return json.loads(RECORD.read_text())


def built_sets() -> Sequence[str]:
    """The instruction sets that the CPU kernels were built for."""
    return build_record().get("instruction_sets", INSTRUCTION_SETS)


def runnable_sets() -> Sequence[str]:
    """Those of the built instruction sets that this machine has, the best last."""
    return [name for name in INSTRUCTION_SETS[: _C.best_instruction_set() + 1] if name in built_sets()]


def _unfit(library: Any) -> str:
    """Why a library that loads is not used here.

    It was built for another version of this code, whose arguments may differ, or by SEGNEXT_BUILD=native for another
    instruction set.
    """
    if (version := getattr(library, "VERSION", "unknown")) != VERSION:
        return f"it is of version {version}, segnext_kernels of version {VERSION}"
    built = built_sets()
    if INSTRUCTION_SETS[int(library.best_instruction_set())] in built:
        return ""
    return f"built for {' and '.join(built)} alone, which this machine does not have"


_C, _load_error = _load()
if _C is not None and (_load_error := _unfit(_C)):
    _C = None


def missing(part: str) -> str | None:
    """Why "cpu" or "cuda" kernels are absent, with the remedy; None where they are built."""
    if _C is None:
        reason = _load_error or build_record()["skipped"].get("cpu", "not built")
        if "cpu" in build_record().get("failed", ()):
            _warn_of_failed_build(reason)
            return (
                f"the compiled library could not be built ({reason}); mend that and run `pip install .` again"
            )
        return f"the compiled library is missing ({reason}); install a C++ compiler and run `pip install .` again"
    if part == "cuda" and not _C.HAS_CUDA:
        reason = build_record()["skipped"].get("cuda", "not built")
        return (
            f"built without CUDA ({reason}); in a checkout, with nvcc, run `SEGNEXT_BUILD=cuda pip install .`"
        )
    return None


@functools.cache
def _warn_of_failed_build(reason: str) -> None:
    """Say once that the kernels are missing where a compiler was there: the results are right, but slow."""
    warnings.warn(
        f"segnext_kernels: the compiled library could not be built ({reason}); plain PyTorch computes instead,"
        " which is slower; mend that and run `pip install .` again",
        RuntimeWarning,
        stacklevel=2,
    )


def instruction_set(dtype: torch.dtype = torch.float32) -> int:
    """Index into INSTRUCTION_SETS of the CPU kernels for ``dtype``: the machine's best, or SEGNEXT_CPU_ISA's.

    AMX multiplies bfloat16, and float32 in pieces of bfloat16 if `torch.set_float32_matmul_precision` allows it.
    """
    in_pieces = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return TILES if (dtype == torch.bfloat16 or in_pieces) and _uses_tiles() else _best_vectors()


@functools.cache
def _wanted_set() -> str | None:
    wanted = os.environ.get("SEGNEXT_CPU_ISA")
    if wanted and wanted not in INSTRUCTION_SETS:
        raise ValueError(f"SEGNEXT_CPU_ISA must be one of {', '.join(INSTRUCTION_SETS)}, got {wanted!r}")
    return wanted or None


@functools.cache
def _best_vectors() -> int:
    """The instruction set of whatever is not computed on tiles."""
    best, wanted = int(_C.best_instruction_set()), _wanted_set()
    if wanted in (None, "amx"):
        return best
    if wanted not in runnable_sets():
        raise ValueError(
            f"SEGNEXT_CPU_ISA: {wanted} is not built here or not on this machine; best: {INSTRUCTION_SETS[best]}"
        )
    return INSTRUCTION_SETS.index(wanted)


@functools.cache
def _uses_tiles() -> bool:
    """Whether products go to AMX's tiles. Asks the system for them, so it is called where there is such a product."""
    wanted = _wanted_set()
    if wanted not in (None, "amx"):
        return False
    reason = reason_against_tiles()
    if wanted and reason:
        raise ValueError(f"SEGNEXT_CPU_ISA: amx does not run here: {reason}; unset it, or name another")
    return reason is None


def reason_against_tiles() -> str | None:
    """Why AMX is not used for bfloat16 on this machine; None where it is. Asks the system for it."""
    wanted = _wanted_set()
    if wanted not in (None, "amx"):
        return f"SEGNEXT_CPU_ISA={wanted}"
    return "it is not built" if "amx" not in built_sets() else _C.reason_against_tiles()


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


def reason_against(x: torch.Tensor, device: str, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why the compiled kernels for "cpu" or "cuda", in these dtypes, do not take ``x`` on this machine."""
    if not (x.is_cpu if device == "cpu" else x.is_cuda):
        return f"takes {device.upper()} tensors, not {x.device.type}"
    if x.dtype not in dtypes:
        return f"takes {dtype_names(dtypes)}, not {dtype_names((x.dtype,))}"
    return missing(device) or (architecture_gap(x.device) if device == "cuda" else None)


def cpu(run: Callable[..., Any], dtypes: tuple[torch.dtype, ...] = CPU_DTYPES, **rest: Any) -> Kernel:
    """The backend "cpu" of an op; ``rest`` as in `Kernel`."""
    return Kernel(
        run, dtypes, device="cpu", machine=lambda x, dtypes: reason_against(x, "cpu", dtypes), **rest
    )


def cuda(run: Callable[..., Any], dtypes: tuple[torch.dtype, ...] = CUDA_DTYPES, **rest: Any) -> Kernel:
    """The backend "cuda" of an op; ``rest`` as in `Kernel`."""
    return Kernel(
        run, dtypes, device="cuda", machine=lambda x, dtypes: reason_against(x, "cuda", dtypes), **rest
    )


def both(
    run: Callable[..., Any],
    position: int = 0,
    on_cuda: Mapping[str, Any] | None = None,
    on_cpu: Mapping[str, Any] | None = None,
) -> dict[str, Kernel]:
    """The backends "cuda" and "cpu" of an op whose kernels take the same arguments.

    Args:
        run: ``run(call, *args)``, where ``call`` is `call_cuda` or `call_cpu`.
        position: as in `Kernel`.
        on_cuda, on_cpu: what one of them has of its own, as in `Kernel`.
    """
    return {
        "cuda": cuda(functools.partial(run, call_cuda), position=position, **(on_cuda or {})),
        "cpu": cpu(functools.partial(run, call_cpu), position=position, **(on_cpu or {})),
    }


def not_channels_last(*tensors: torch.Tensor) -> str | None:
    """Why a CPU kernel that walks over rows of channels does not take these."""
    if all(map(has_inner_channels, tensors)):
        return None
    return "takes channels_last tensors; use reference, or .contiguous(memory_format=torch.channels_last)"


def constant(name: str) -> Callable[[], int]:
    """A constant of the library, which is there when a kernel's limits are asked for."""
    return lambda: int(getattr(_C, name))


@dataclass(frozen=True)
class Packed:
    """Weights in the form that a CPU kernel takes.

    Attributes:
        memory: bytes at a multiple of 64.
        isa: the instruction set that they were packed for, and that runs them: an index into INSTRUCTION_SETS.
    """

    memory: torch.Tensor
    isa: int

    @property
    def address(self) -> int:
        """Where they begin."""
        return address(self.memory)


def pack(function: str, dtype: torch.dtype, weights: Any, *others: Any) -> Packed:
    """Weights in the form that ``<function>_cpu`` takes, for this machine's instruction set.

    Args:
        dtype: of the products.
        weights: a tensor or a list, from which the size follows.
        others: the rest of what is packed.
    """
    expect_device(function, torch.device("cpu"), (weights, others))
    isa, code, described = instruction_set(dtype), DTYPES[dtype], plain(weights)
    memory = packed_memory(getattr(_C, f"{function}_packed_bytes")(code, described, isa))
    getattr(_C, f"{function}_pack_cpu")(code, described, *map(plain, others), memory.data_ptr(), isa)
    return Packed(memory, isa)


def call_cpu(
    function: str, like: torch.Tensor, *args: Any, workspace: bool = False, isa: int | None = None
) -> Any:
    """Run ``<function>_cpu`` of the library with all of torch's threads.

    Args:
        function: the op, or its backward.
        like: a tensor of the dtype that the function computes in, on the device that it runs on.
        args: tensors, None, dtypes, numbers, and lists of them, in the function's order.
        workspace: whether the function on a GPU takes a `Workspace`.
        isa: that of packed weights among the arguments; else the machine's best for ``like``.

    Raises:
        MemoryError: there is none for the function's scratch arrays.
    """
    expect_device(function, torch.device("cpu"), args)
    try:
        isa = instruction_set(like.dtype) if isa is None else isa
        return getattr(_C, f"{function}_cpu")(*map(plain, args), isa, torch.get_num_threads())
    except MemoryError:
        raise MemoryError(f"{function}: there is not enough memory for a call of this size") from None


def call_cuda(
    function: str, like: torch.Tensor, *args: Any, workspace: bool = False, op: str | None = None
) -> None:
    """Start ``<function>_cuda`` of the library on the current stream of ``like``'s device; see `call_cpu`.

    Raises:
        RuntimeError: the launch failed, in the name of ``op``.
    """
    expect_device(function, like.device, args)
    memory = (Workspace(like),) if workspace else ()
    status = getattr(_C, f"{function}_cuda")(*map(plain, args), *stream(like), *memory)
    if status:
        raise RuntimeError(f"{op or function}: CUDA launch failed: {_C.cuda_error(status)}")


def expect_device(function: str, device: torch.device, values: Sequence[Any]) -> None:
    """Refuse a tensor elsewhere: a meta tensor's address is 0, a GPU's means nothing to the CPU.

    Raises:
        ValueError: one of the tensors, also inside a list or tuple, is not on ``device``, or its memory does not hold
            its values.
    """
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.device != device:
                raise ValueError(
                    f"{function}: all tensors must be on {device}, got one of shape {tuple(value.shape)} on"
                    f" {value.device}; move it with .to()"
                )
            if value.is_neg():  # PyTorch's own calls turn the signs; an address does not tell
                raise ValueError(
                    f"{function}: all tensors must hold their values, got one of shape {tuple(value.shape)} that"
                    " waits to be negated; use .resolve_neg()"
                )
        elif isinstance(value, (list, tuple)) and type(value) is not torch.Size:
            expect_device(function, device, value)


def address(packed: torch.Tensor) -> int:
    """Where packed weights or a workspace begin, for the CPU kernels."""
    expect_device("packed weights", torch.device("cpu"), (packed,))
    return packed.data_ptr()


def plain(value: Any) -> Any:
    """Convert to what the library takes: a tensor to its address, sizes and strides in elements, a dtype to a code."""
    if isinstance(value, torch.Tensor):
        pointer = value.data_ptr()
        # `expect_device` refuses meta tensors; where launches are only counted there are some
        if pointer == 0 and value.numel() and value.device.type != "meta":
            raise ValueError(
                f"segnext_kernels: all tensors must have memory, got one of shape {tuple(value.shape)} without; fake"
                " tensors and freed storages have none"
            )
        return pointer, value.shape, value.stride()
    if type(value) in AS_THEY_ARE:
        return value
    if isinstance(value, list):
        return [plain(item) for item in value]
    return DTYPES[value] if isinstance(value, torch.dtype) else value


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


def packed_memory(size: int) -> torch.Tensor:
    """Uninitialised bytes at a multiple of 64, where packed weights begin."""
    memory = torch.empty(size + 64, dtype=torch.uint8, device="cpu")  # whatever the default device
    start = -memory.data_ptr() % 64
    return memory[start : start + size]
