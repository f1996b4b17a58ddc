"""Turns a Triton launch into one that the executor can start; the tensors need not have data."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import torch

from bench.issue_model.cubin import kernels
from bench.issue_model.executor import Start
from bench.issue_model.record import Launch, ranges_of
from oracle import triton_launch
from segnext_kernels.triton import tuning

ARCHITECTURE = 90
FIRST_ADDRESS = 1 << 44  # tensors without data lie where no memory is, a terabyte apart
APART = 1 << 40


def launch_of(
    function: Any, grid: Any, args: tuple[Any, ...], config: tuning.Config, constants: dict[str, Any]
) -> Launch:
    """Return what `launch.start` with these arguments would start.

    Tensors on the CPU are read and written; those of device "meta" read as made-up numbers.
    """
    noted = triton_launch.Launch(function, args, config, constants)
    has_data = all(arg.device.type == "cpu" for arg in args if isinstance(arg, torch.Tensor))
    tensors: dict[int, int] = {}

    def address(tensor: torch.Tensor) -> int:
        if has_data:
            return tensor.data_ptr()
        key = tensor.untyped_storage()._cdata
        begin = tensors.setdefault(key, FIRST_ADDRESS + len(tensors) * APART)
        return begin + int(tensor.storage_offset()) * tensor.element_size()

    built = noted.compiled(ARCHITECTURE)
    cubin, name = built.asm["cubin"], built.metadata.name
    kernel = kernels(cubin)[name]
    packed = bytearray(max((p.offset + p.size for p in kernel.parameters), default=0))
    # after the function's own parameters Triton passes scratch memory, which these kernels do not use
    for value, parameter in zip(noted.passed(), kernel.parameters, strict=False):
        packed[parameter.offset : parameter.offset + parameter.size] = _bytes(value, parameter.size, address)
    x, y, z = (*(int(size) for size in grid), 1, 1)[:3]
    start = Start(
        grid=(x, y, z),
        block=(32 * config.num_warps, 1, 1),
        shared=built.metadata.shared - kernel.static_shared,
        parameters=bytes(packed),
        ranges=ranges_of(arg for arg in args if isinstance(arg, torch.Tensor)) if has_data else (),
        fake_memory=not has_data,
    )
    return Launch(cubin, name, noted.label, start)


def _bytes(value: Any, size: int, address: Callable[[torch.Tensor], int]) -> bytes:
    if isinstance(value, torch.Tensor):
        return address(value).to_bytes(8, "little")
    if isinstance(value, float):
        return struct.pack("<f", value)
    return int(value).to_bytes(size, "little", signed=True)
