"""Chooses the launch configuration of a Triton kernel: from a table per architecture, or by a measurement.

A kernel's `Space` lists a few configurations. The first one is the default; the reasons stand beside it. Two sources
take precedence over it: first the measurements of SEGNEXT_AUTOTUNE=1 on this machine, which are kept in the user's
cache directory, then the committed measurements in `tuned/<architecture>.json`. Both have the same format, so a copied
cache file is a table. Without SEGNEXT_AUTOTUNE nothing is ever measured, so that a user's first call does not wait.

`triton.autotune` is not used, because it requires a GPU even under the interpreter.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from segnext_kernels import user_cache
from segnext_kernels.kernel import dtype_name

TABLES = Path(__file__).with_name("tuned")
REGISTERS_PER_THREAD = 255
SPARE_REGISTERS = 40  # addresses, masks, loop counters
REPEAT_MS = 20  # measuring time per configuration: hundreds of runs of a kernel of 50 microseconds

Result = TypeVar("Result")


@dataclass(frozen=True)
class Config:
    """One way to launch a kernel: its tile sizes by parameter name, warps, and pipeline stages.

    ``max_registers`` per thread, if not 0, hold from sm_90 on, where tensor cores read operands from shared memory; an
    older GPU has them in registers, and the compiler decides.
    """

    sizes: tuple[tuple[str, int], ...]
    num_warps: int = 4
    num_stages: int = 1
    max_registers: int = 0

    def __getitem__(self, name: str) -> int:
        return dict(self.sizes)[name]

    def as_json(self) -> dict[str, int]:
        """All numbers by name."""
        limit = {"max_registers": self.max_registers} if self.max_registers else {}
        return {**dict(self.sizes), "num_warps": self.num_warps, "num_stages": self.num_stages, **limit}

    def options(self, capability: tuple[int, int]) -> dict[str, Any]:
        """What Triton's compiler takes beside the sizes, for a GPU of this compute capability.

        Multiply-adds may always be fused; the default depends on Triton's version (3.10 no longer fuses them).
        """
        limit = {"maxnreg": self.max_registers} if self.max_registers and capability >= (9, 0) else {}
        return {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": True,
            **limit,
        }


def config(num_warps: int = 4, num_stages: int = 1, max_registers: int = 0, **sizes: int) -> Config:
    """A `Config` from tile sizes by name."""
    return Config(tuple(sizes.items()), num_warps, num_stages, max_registers)


@dataclass(frozen=True)
class Space:
    """The choices for one launch.

    Attributes:
        name: ``<op>.<kernel>``.
        configs: the first is the default.
        live: 32-bit values that a program holds at once, from the configuration; an estimate of its registers.
        shared: bytes of shared memory, from the configuration and the size of an element.
    """

    name: str
    configs: tuple[Config, ...]
    live: Callable[[Config], int]
    shared: Callable[[Config, int], int] = lambda config, element_size: 0

    def fitting(self, element_size: int, shared_limit: int) -> list[Config]:
        """Configurations that should neither spill registers nor exceed the shared memory; at least one."""

        def fits(config: Config) -> bool:
            registers = self.live(config) / (32 * config.num_warps) + SPARE_REGISTERS
            return registers <= REGISTERS_PER_THREAD and self.shared(config, element_size) <= shared_limit

        return [c for c in self.configs if fits(c)] or [self.configs[0]]


def size_class(x: torch.Tensor, *more: str) -> str:
    """The key of a configuration for tensors like ``x``: dtype, innermost axis, sizes rounded up to powers of 2."""
    inner = "nhwc" if x.ndim == 4 and x.stride(1) == 1 and x.shape[1] > 1 else "nchw"
    sizes = "x".join(str(1 << (size - 1).bit_length()) for size in x.shape)
    return "-".join([dtype_name(x.dtype), inner, sizes, *more])


def tuned(space: Space, key: str, x: torch.Tensor, run: Callable[[Config], Result]) -> Result:
    """Call ``run(config)`` with the configuration for these inputs.

    Args:
        key: `size_class` of the properties that determine the speed.
        x: any input; its device and element type count.
        run: launches the kernel and returns the result; it may be called many times.
    """
    if not x.is_cuda:
        return run(space.configs[0])
    chosen = _known(space, key, x.device)
    if chosen is None:
        if _wanted() and not torch.cuda.is_current_stream_capturing():
            chosen = _measure(space, key, x, run)
        else:
            chosen = _entry(space, _table(architecture(x.device)), key)
    return run(chosen or space.configs[0])


def _wanted() -> bool:
    value = os.environ.get("SEGNEXT_AUTOTUNE") or "0"
    if value not in ("0", "1"):
        raise ValueError(f"SEGNEXT_AUTOTUNE must be 0 or 1, got {value!r}")
    return value == "1"


@functools.cache
def architecture(device: torch.device) -> str:
    """For example sm_90, or gfx942 of another vendor."""
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


@functools.cache
def _table(name: str) -> dict[str, Any]:
    path = TABLES / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


@functools.cache
def cache_file(device: torch.device) -> Path:
    """The file of this machine's measurements: one per device type and Triton version."""
    import triton

    words = (architecture(device), torch.cuda.get_device_name(device), "triton", triton.__version__)
    return user_cache.folder("tuned") / user_cache.file_name(*words)


# file -> its content as last read or written by this process
_measured: dict[Path, dict[str, Any]] = {}


def _known(space: Space, key: str, device: torch.device) -> Config | None:
    path = cache_file(device)
    if path not in _measured:
        _measured[path] = user_cache.read(path)
    return _entry(space, _measured[path], key)


def _entry(space: Space, table: dict[str, Any], key: str) -> Config | None:
    """The table's configuration for this key, if the table has a valid one."""
    of_space = table.get(space.name)
    return _named(space, of_space.get(key)) if isinstance(of_space, dict) else None


def _named(space: Space, numbers: Mapping[str, int] | None) -> Config | None:
    """The configuration with these numbers; None if the entry is stale: no current configuration matches."""
    return next((c for c in space.configs if c.as_json() == numbers), None)


def record(path: Path, name: str, key: str, config: Config) -> None:
    """Add a measurement to a cache file. Other processes' entries stay, and no reader sees half a file."""
    content = user_cache.read(path)
    if not isinstance(content.get(name), dict):
        content[name] = {}
    content[name][key] = config.as_json()
    _measured[path] = content
    user_cache.write(path, content)  # if nothing can be written, this process still knows it


def _measure(space: Space, key: str, x: torch.Tensor, run: Callable[[Config], Any]) -> Config:
    from triton.runtime.errors import OutOfResources

    times: dict[Config, float] = {}
    for config in space.fitting(x.element_size(), shared_limit(x.device)):
        # if `fitting` let in a configuration that does not fit, the others are measured
        with contextlib.suppress(OutOfResources):
            times[config] = time_of(functools.partial(run, config))
    best = min(times, key=times.__getitem__, default=space.configs[0])
    record(cache_file(x.device), space.name, key, best)
    return best


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block may have."""
    from triton.runtime import driver

    return int(driver.active.utils.get_device_properties(device.index)["max_shared_mem"])


def time_of(run: Callable[[], Any]) -> float:
    """Median milliseconds on the device: in a CUDA graph without Python, and with inputs in L2, as in a model."""
    from triton.testing import do_bench_cudagraph

    return float(do_bench_cudagraph(run, rep=REPEAT_MS, return_mode="median"))
