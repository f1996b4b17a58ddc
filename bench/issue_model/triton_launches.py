"""What an op's Triton function would launch: run on tensors without data, compiled without a GPU."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from bench.issue_model.cubin import kernels
from bench.issue_model.executor import Start
from bench.issue_model.record import Launch
from segnext_kernels import _triton, tuning
from tests.kernels import triton_gate

ARCHITECTURE = 90
FIRST_ADDRESS = 1 << 44  # tensors lie where no memory is, a terabyte apart
APART = 1 << 40
# What loads give: 1.0 in bfloat16 twice, 1.002 in float32. Control flow of these kernels does not depend on data.
FILL = 0x3F803F80


def launches_of(
    op: str, run: Callable[..., Any], make: Callable[[], tuple[Any, ...]], every_config: bool
) -> tuple[list[Launch], Any]:
    """The launches of one call, in the default configuration of each space or in all."""
    args = make()
    found: list[Launch] = []
    tensors: dict[int, tuple[int, torch.Tensor]] = {}

    def address(tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in tensors:
            tensors[key] = (FIRST_ADDRESS + len(tensors) * APART, tensor)
        return tensors[key][0] + tensor.storage_offset() * tensor.element_size()

    def note(function: Any, grid: Any, *args: Any, config: tuning.Config, **constants: Any) -> None:
        sizes = " ".join(f"{key}={value}" for key, value in config.as_json().items())
        flags = " ".join(f"{key}={value}" for key, value in constants.items())
        label = " ".join(filter(None, [function.fn.__name__.strip("_"), flags, sizes]))
        launch = triton_gate.Launch(function, args, config, tuple(constants.items()), label)
        found.append(_compiled(launch, grid, address))

    def each(space: tuning.Space, key: str, x: torch.Tensor, run: Callable[[tuning.Config], Any]) -> Any:
        results = [run(config) for config in (space.configs if every_config else space.configs[:1])]
        return results[0]

    before = _triton.launch, tuning.tuned
    _triton.launch, tuning.tuned = note, each
    try:
        out = run(*args)
    finally:
        _triton.launch, tuning.tuned = before
    return found, (args, out, tensors)


def _compiled(launch: triton_gate.Launch, grid: Any, address: Callable[[torch.Tensor], int]) -> Launch:
    config = launch.config
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True}
    built = triton.compile(launch.source(), target=GPUTarget("cuda", ARCHITECTURE, 32), options=options)
    cubin = built.asm["cubin"]
    kernel = kernels(cubin)[built.metadata.name]
    packed = bytearray(max((p.offset + p.size for p in kernel.parameters), default=0))
    values = [v for v in launch.args if triton_gate._type_of(v)[0] != "constexpr"]
    # behind the function's own parameters Triton has scratch memory, which these kernels do not use
    for value, parameter in zip(values, kernel.parameters, strict=False):
        packed[parameter.offset : parameter.offset + parameter.size] = _bytes(value, parameter.size, address)
    sizes = tuple(int(size) for size in grid) + (1,) * (3 - len(grid))
    start = Start(
        grid=sizes, block=(32 * config.num_warps, 1, 1), shared=built.metadata.shared - kernel.static_shared,
        parameters=bytes(packed), fake_memory=True, fill=FILL,
    )  # fmt: skip
    return Launch(cubin, built.metadata.name, launch.label, start)


def _bytes(value: Any, size: int, address: Callable[[torch.Tensor], int]) -> bytes:
    if isinstance(value, torch.Tensor):
        return address(value).to_bytes(8, "little")
    if isinstance(value, float):
        return struct.pack("<f", value)
    return int(value).to_bytes(size, "little", signed=True)
