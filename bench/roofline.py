"""Measures what this machine can do at best (multiply-adds, products, copies), and gives a workload's floor."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.clock import Clock

SOURCE = Path(__file__).with_name("fma_ceiling.cpp")
# Bytes that one copy reads and writes: the smallest fit a core's L2, the largest fit no cache.
COPY_SIZES = tuple(mebibytes << 20 for mebibytes in (1, 4, 16, 64, 256))
GPU_COPY_SIZES = tuple(mebibytes << 20 for mebibytes in (8, 32, 512, 4096))  # from the L2 to far beyond it
GEMM_SIDE = 1024
GPU_GEMM_SIDE = 8192
REPEATS = 8


@dataclass(frozen=True)
class Ceilings:
    """Holds rates that were measured with all threads that torch uses.

    Attributes:
        fma: GFLOP/s of fp32 multiply-adds in registers; None on a GPU, or if no C++ compiler was found.
        gemm: GFLOP/s of PyTorch's fp32 matrix product of side 1024; on a GPU of side 8192, without TF32.
        copies: (bytes read + written by a copy, GB/s); small copies stay in the caches.
        half_gemm: GFLOP/s of the bf16 product on a GPU's tensor cores; None on a CPU.
    """

    fma: float | None
    gemm: float
    copies: tuple[tuple[int, float], ...]
    half_gemm: float | None = None

    @property
    def arithmetic(self) -> float:
        """Return the higher of the two measured GFLOP/s."""
        return max(self.fma or 0.0, self.gemm)

    def bandwidth(self, size: int) -> float:
        """Return the GB/s that no workload of ``size`` bytes exceeds: the best copy from the next smaller size on."""
        smaller = [at for at, _ in self.copies if at <= size]
        start = max(smaller, default=min(at for at, _ in self.copies))
        return max(rate for at, rate in self.copies if at >= start)

    def floor_ms(
        self, flops: int | None, bytes_moved: int | None, tensor_cores: bool = False
    ) -> float | None:
        """Return the milliseconds below which the workload cannot run; None if nothing is known about it."""
        rate = max(self.arithmetic, self.half_gemm or 0.0) if tensor_cores else self.arithmetic
        floors = [flops / rate / 1e6] if flops and rate else []
        if bytes_moved and self.copies:
            floors.append(bytes_moved / self.bandwidth(bytes_moved) / 1e6)
        return max(floors, default=None)


UNKNOWN = Ceilings(None, 0.0, ())


def measure() -> Ceilings:
    """Measure this machine's ceilings; this takes about two seconds."""
    return Ceilings(measure_fma(), measure_gemm(), tuple((size, measure_copy(size)) for size in COPY_SIZES))


def measure_gpu() -> Ceilings:
    """Measure the current GPU's ceilings; this takes about two seconds and 8 GiB."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        single, half = (
            measure_gemm(GPU_GEMM_SIDE, dtype, "cuda") for dtype in (torch.float32, torch.bfloat16)
        )
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    copies = tuple((size, measure_copy(size, "cuda")) for size in GPU_COPY_SIZES)
    return Ceilings(None, single, copies, half)


def measure_fma() -> float | None:
    """Return the GFLOP/s of a C++ loop of vector FMAs, one copy per thread; None without a compiler."""
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "fma_ceiling.so"
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        fma_flops = ctypes.CDLL(str(library)).fma_flops  # ctypes releases the GIL during the call
    fma_flops.restype, fma_flops.argtypes = ctypes.c_double, [ctypes.c_long, ctypes.POINTER(ctypes.c_float)]
    threads = torch.get_num_threads()
    rounds = 2_000_000  # some 10 ms per thread

    def one(_: int) -> float:
        return float(fma_flops(rounds, ctypes.byref(ctypes.c_float(0.0))))

    with ThreadPoolExecutor(threads) as pool:
        flops = sum(pool.map(one, range(threads)))
        return flops / _best_seconds(lambda: list(pool.map(one, range(threads)))) / 1e9


def measure_gemm(side: int = GEMM_SIDE, dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """Return the GFLOP/s of torch.mm."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _best_seconds(lambda: torch.mm(a, b, out=out), device) / 1e9


def measure_copy(size: int, device: str = "cpu") -> float:
    """Return the GB/s, read + written, of a copy that touches ``size`` bytes."""
    source = torch.ones(size // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    # small copies are repeated: a call costs a microsecond, on a GPU as much time as copying many megabytes
    calls = max(1, ((16 << 20) if device == "cpu" else (4 << 30)) // size)

    def copy() -> None:
        for _ in range(calls):
            target.copy_(source)

    return calls * size / _best_seconds(copy, device) / 1e9


def counted_flops(run: Callable[[], Any]) -> int:
    """Return the FLOPs of convolutions and matrix products in one call, as torch counts them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _best_seconds(run: Callable[[], Any], device: str = "cpu") -> float:
    """Return the shortest of several calls, of which the first warms up: this is a ceiling, not a typical time."""
    clock = Clock(torch.device(device))
    return min(clock.seconds(run) for _ in range(REPEATS + 1))
