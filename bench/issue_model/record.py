"""Records what the CUDA launchers would start: they run on CPU tensors, against a CUDA runtime that only notes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.issue_model import build, costs
from bench.issue_model.cubin import Kernel, kernels
from bench.issue_model.executor import Start
from oracle import nvcc


@dataclass(frozen=True)
class Launch:
    """Holds a kernel and how it is started."""

    cubin: bytes
    kernel: str
    label: str
    start: Start


class Recorder:
    """Records launches of the CUDA kernels of some folders of csrc, by default all of them."""

    def __init__(self, folders: Sequence[str] | None = None, extra: Sequence[Path] = ()) -> None:
        library, cubins = build.build(folders, extra)
        self.module = build.load(library)
        self.kernels: dict[str, tuple[bytes, Kernel]] = {}
        for path in cubins:
            content = path.read_bytes()
            self.kernels.update({name: (content, kernel) for name, kernel in kernels(content).items()})
        self.noted: list[Launch] = []
        self.memsets = 0
        self.module.listen(self._launch, self._blocks, self._memset)

    def _launch(
        self, name: str, grid: Any, block: Any, shared: int, cluster: int, cooperative: bool, arguments: int
    ) -> None:
        cubin, kernel = self.kernels[name]
        packed = bytearray(max((p.offset + p.size for p in kernel.parameters), default=0))
        pointers = ctypes.cast(arguments, ctypes.POINTER(ctypes.c_void_p))
        for i, p in enumerate(kernel.parameters):
            packed[p.offset : p.offset + p.size] = ctypes.string_at(pointers[i], p.size)
        start = Start(grid, block, shared, bytes(packed), cluster, cooperative)
        self.noted.append(Launch(cubin, name, readable(name), start))

    def _blocks(self, name: str, threads: int, shared: int) -> int:
        kernel = self.kernels[name][1]
        return costs.residency(kernel.registers, threads, shared + kernel.static_shared)

    def _memset(self, size: int) -> None:
        self.memsets += 1

    def taken(self, first: int, tensors: Sequence[torch.Tensor]) -> list[Launch]:
        """Remove and return the launches from number ``first`` on; they may read the memory of these tensors."""
        ranges = ranges_of(tensors)
        found = [replace(launch, start=replace(launch.start, ranges=ranges)) for launch in self.noted[first:]]
        del self.noted[first:]
        return found


def ranges_of(tensors: Iterable[torch.Tensor]) -> tuple[tuple[int, int], ...]:
    """Return where the memory of these tensors begins and ends, in order of the addresses."""
    return _joined([_range(tensor) for tensor in tensors if tensor.device.type == "cpu" and tensor.numel()])


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _joined(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join ranges that overlap or touch."""
    result: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return tuple(result)


def readable(name: str) -> str:
    """Turn the linker's name into one such as nmf2d_cluster_kernel<float, 16>."""
    return nvcc.readable([name])[0]
