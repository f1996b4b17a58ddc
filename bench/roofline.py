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

FOLDER = Path(__file__).parent
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
        dots: GFLOP/s of vdpbf16ps (AVX512-BF16) in registers; None where the CPU has none, or no compiler knows it.
        tiles: GFLOP/s of tdpbf16ps (AMX) in registers; None as for ``dots``, or where the system refuses tiles.
    """

    fma: float | None
    gemm: float
    copies: tuple[tuple[int, float], ...]
    half_gemm: float | None = None
    dots: float | None = None
    tiles: float | None = None

    @property
    def arithmetic(self) -> float:
        """Return the higher of the two measured fp32 GFLOP/s."""
        return max(self.fma or 0.0, self.gemm)

    @property
    def half_arithmetic(self) -> float:
        """Return the highest GFLOP/s for products of bf16 numbers, which can be computed as fp32 too."""
        return max(self.arithmetic, self.half_gemm or 0.0, self.dots or 0.0, self.tiles or 0.0)

    def bandwidth(self, size: int) -> float:
        """Return the GB/s that no workload of ``size`` bytes exceeds: the best copy from the next smaller size on."""
        smaller = [at for at, _ in self.copies if at <= size]
        start = max(smaller, default=min(at for at, _ in self.copies))
        return max(rate for at, rate in self.copies if at >= start)

    def floor_ms(
        self, flops: int | None, bytes_moved: int | None, half: bool = False, taps: int = 0
    ) -> float | None:
        """Return the milliseconds below which the workload cannot run; None if nothing is known about it.

        The larger of two times: that of the arithmetic, ``flops`` and ``taps`` one after the other, and that of
        ``bytes_moved`` at the bandwidth of this size.

        Args:
            flops: FLOPs at the highest rate: of fp32, or, if ``half``, of bf16 products.
            bytes_moved: bytes read and written.
            half: the FLOPs are products of 16-bit numbers.
            taps: further FLOPs, always at the rate of fp32: depthwise convolutions, which no matrix unit speeds up.
        """
        rate = self.half_arithmetic if half else self.arithmetic
        floors = []
        if rate and (flops or taps):
            floors.append((flops or 0) / rate / 1e6 + (taps / self.arithmetic / 1e6 if taps else 0.0))
        if bytes_moved and self.copies:
            floors.append(bytes_moved / self.bandwidth(bytes_moved) / 1e6)
        return max(floors, default=None)


UNKNOWN = Ceilings(None, 0.0, ())


def measure() -> Ceilings:
    """Measure this machine's ceilings; this takes about six seconds.

    Everything is measured twice, some seconds apart: what else runs on a shared machine for a moment lowers no ceiling.
    """
    first, second = _measure_once(), _measure_once()
    copies = tuple(max(pair) for pair in zip(first.copies, second.copies, strict=True))
    rates = {name: _higher(getattr(first, name), getattr(second, name)) for name in ("fma", "dots", "tiles")}
    return Ceilings(gemm=max(first.gemm, second.gemm), copies=copies, **rates)


def _measure_once() -> Ceilings:
    copies = tuple((size, measure_copy(size)) for size in COPY_SIZES)
    return Ceilings(measure_fma(), measure_gemm(), copies, dots=measure_dots(), tiles=measure_tiles())


def _higher(first: float | None, second: float | None) -> float | None:
    return max((rate for rate in (first, second) if rate is not None), default=None)


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
    """Return the GFLOP/s of vector FMAs in float32; None without a compiler."""
    return _measure_loop("fma_ceiling.cpp", 2_000_000, "-march=native")


def measure_dots() -> float | None:
    """Return the GFLOP/s of vdpbf16ps; None where CPU or compiler lack AVX512-BF16."""
    return _measure_loop("dot_ceiling.cpp", 2_000_000)


def measure_tiles() -> float | None:
    """Return the GFLOP/s of tdpbf16ps; None where CPU, system or compiler lack AMX."""
    return _measure_loop("tile_ceiling.cpp", 400_000)


def _measure_loop(source: str, rounds: int, *flags: str) -> float | None:
    """Return the GFLOP/s of a C++ loop, one copy per thread.

    Each instruction has a file of its own: one that the compiler does not know takes no other's rate away.

    Args:
        source: a file of this folder that defines `flops`.
        rounds: so many that a call takes about 10 ms.
        flags: further flags for the compiler.

    Returns:
        None if there is no compiler, the file does not compile or load, or the machine does not have the
        instruction.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "ceiling.so"
        command = [compiler, "-O3", *flags, "-shared", "-fPIC", str(FOLDER / source), "-o", str(library)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        try:
            flops = ctypes.CDLL(str(library)).flops  # ctypes releases the GIL during the call
        except OSError:  # a temporary folder from which nothing may run
            return None
    flops.restype, flops.argtypes = ctypes.c_double, [ctypes.c_long, ctypes.POINTER(ctypes.c_float)]
    threads = torch.get_num_threads()

    def one(_: int) -> float:
        return float(flops(rounds, ctypes.byref(ctypes.c_float(0.0))))

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(one, range(threads)))
        return done / _best_seconds(lambda: list(pool.map(one, range(threads)))) / 1e9 if done else None


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
