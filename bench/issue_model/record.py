"""What an op would launch: its own Python function runs on CPU tensors against a CUDA runtime that only notes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.issue_model import build, costs
from bench.issue_model.cubin import Kernel, kernels
from bench.issue_model.executor import Start


@dataclass(frozen=True)
class Launch:
    """A kernel and how it is started."""

    cubin: bytes
    kernel: str
    label: str
    start: Start


class _Tensors(TorchDispatchMode):
    """Keeps every tensor that is seen, so that its memory can be read while the model runs."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.kept += [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        return out


class Recorder:
    """The CUDA kernels of some folders of csrc (all by default), compiled and ready to be asked for."""

    def __init__(self, folders: Sequence[str] | None = None, extra: Sequence[Path] = ()) -> None:
        library, cubins = build.build(folders, extra)
        self.module = build.load(library)
        self.kernels: dict[str, tuple[bytes, Kernel]] = {}
        for path in cubins:
            content = path.read_bytes()
            self.kernels.update({name: (content, kernel) for name, kernel in kernels(content).items()})
        self._noted: list[tuple[str, dict[str, Any]]] = []
        self.memsets = 0
        self.module.listen(self._launch, self._blocks, self._memset)

    def _launch(
        self, name: str, grid: Any, block: Any, shared: int, cluster: int, cooperative: bool, arguments: int
    ) -> None:
        kernel = self.kernels[name][1]
        end = max((p.offset + p.size for p in kernel.parameters), default=0)
        packed = bytearray(end)
        pointers = ctypes.cast(arguments, ctypes.POINTER(ctypes.c_void_p))
        for i, p in enumerate(kernel.parameters):
            packed[p.offset : p.offset + p.size] = ctypes.string_at(pointers[i], p.size)
        start = dict(
            grid=grid, block=block, shared=shared, parameters=bytes(packed), cluster=cluster, cooperative=cooperative
        )
        self._noted.append((name, start))

    def _blocks(self, name: str, threads: int, shared: int) -> int:
        kernel = self.kernels[name][1]
        return costs.residency(kernel.registers, threads, shared + kernel.static_shared)

    def _memset(self, size: int) -> None:
        self.memsets += 1

    @contextmanager
    def installed(self) -> Iterator[None]:
        """`_library._C` launches here."""
        from segnext_kernels import _library
        from tests.cuda_emulator.emulation import _Library

        before = _library._C
        _library._C = _Library(self.module, before)
        try:
            yield
        finally:
            _library._C = before

    def launches(self, run: Callable[..., Any], args: Sequence[Any]) -> tuple[list[Launch], list[torch.Tensor], Any]:
        """What ``run(*args)`` launches, the tensors that must stay alive meanwhile, and its result."""
        self._noted.clear()
        with self.installed(), _Tensors() as tensors:
            out = run(*args)
        kept = [*(leaf for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor)), *tensors.kept]
        ranges = tuple(sorted({_range(t) for t in kept if t.numel()}))
        found = []
        for name, start in self._noted:
            cubin, _ = self.kernels[name]
            found.append(Launch(cubin, name, readable(name), Start(**start, ranges=_joined(ranges))))
        return found, kept, out


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _joined(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Without those that lie in another one."""
    result: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return tuple(result)


def readable(name: str) -> str:
    """nmf2d_cluster_kernel<float, 16> from what the linker calls it."""
    import subprocess

    from tests.kernels.nvcc_gate import _readable

    try:
        return _readable([name])[0]
    except subprocess.SubprocessError:
        return name
