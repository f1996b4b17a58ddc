"""Runs blocks of a kernel's machine code: builds machine/ once, hands it the rows of `decode`, and counts."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.issue_model import decode
from bench.issue_model.cubin import Kernel, kernels
from bench.issue_model.sass import Line, disassemble

FOLDER = Path(__file__).resolve().parent
MACHINE = FOLDER / "machine"
CACHE = FOLDER.parents[1] / "build" / "issue_model"
BANKS = 8
RESERVED_SHARED = 1024  # bytes of each block on sm_90: the first kilobyte of its window
STACK, LOCAL_BYTES = 0x28, 16384  # in constant bank 0: where the stack begins; machine/state.h's kLocalBytes
GRID_WORKSPACE = 0x48, 0x44  # in constant bank 0: the address of a cooperative grid's barrier, low and high
IN_CLUSTER = 0x140  # in constant bank 0: whether the kernel was started with clusters
MOST_ISSUES = 1 << 28  # warp instructions per block; more mean an endless loop


@dataclass(frozen=True)
class Code:
    """Holds a decoded kernel."""

    kernel: Kernel
    lines: list[Line]
    rows: np.ndarray


@dataclass
class Counts:
    """Counts what blocks issued, by instruction, summed over the blocks that ran."""

    issued: np.ndarray
    lanes: np.ndarray
    passes: np.ndarray  # over the banks of shared memory
    sectors: np.ndarray  # of global memory
    blocks: list[int] = field(default_factory=list)  # warp instructions of each block
    longest: list[int] = field(default_factory=list)  # of the warp that issued most


@dataclass(frozen=True)
class Start:
    """Says how a kernel is started."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int  # dynamic bytes
    parameters: bytes  # all of them, as they lie in constant bank 0
    cluster: int = 1
    cooperative: bool = False
    ranges: tuple[tuple[int, int], ...] = ()  # begin and end of memory that may be read
    fake_memory: bool = False  # tensors do not exist: loads give made-up numbers


@functools.cache
def library() -> ctypes.CDLL:
    """Return the compiled executor; it is compiled again if its source has changed."""
    sources = sorted(MACHINE.glob("*.*"))
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    path = CACHE / f"executor-{key}.so"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        flags = [
            "-std=c++17",
            "-O2",
            "-march=native",
            "-ffp-contract=off",
            "-Wall",
            "-Wextra",
            "-shared",
            "-fPIC",
        ]
        units = [str(source) for source in sources if source.suffix == ".cpp"]
        done = subprocess.run(["g++", *flags, *units, "-o", str(partial)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"issue_model: the executor does not compile:\n{done.stderr[-4000:]}")
        partial.rename(path)
    loaded = ctypes.CDLL(str(path))
    loaded.issue_model_operations.restype = ctypes.c_char_p
    loaded.issue_model_fields.restype = ctypes.c_int64
    loaded.issue_model_run.restype = ctypes.c_int64
    assert loaded.issue_model_fields() == decode.WIDTH, (
        "machine/state.h and decode/row.py disagree on the fields"
    )
    return loaded


@functools.cache
def operations() -> dict[str, int]:
    """Map the names of the executor's operations to their numbers."""
    return {name: i for i, name in enumerate(library().issue_model_operations().decode().split())}


@functools.lru_cache(maxsize=256)
def code(cubin: bytes, name: str) -> Code:
    """Decode one kernel of a cubin."""
    kernel = kernels(cubin)[name]
    lines = disassemble(cubin, kernel.symbol)
    return Code(kernel, lines, decode.program(lines, operations()))


_BARRIER = np.zeros(16, np.uint32)  # the driver gives it to a cooperative grid to count arrivals in


def empty_counts(program: Code) -> Counts:
    """Make counts that are all zero."""
    issued, lanes, passes, sectors = (np.zeros(len(program.lines), np.uint64) for _ in range(4))
    return Counts(issued, lanes, passes, sectors)


def run_block(program: Code, start: Start, index: tuple[int, int, int], counts: Counts) -> None:
    """Run one block to its end and add what it issued.

    Raises:
        RuntimeError: something cannot be executed; the message has the instruction.
    """
    banks = {**program.kernel.constants, 0: _bank0(program.kernel, start)}
    contents = [np.frombuffer(banks.get(i, b"\0") or b"\0", np.uint8) for i in range(BANKS)]
    pointers = (ctypes.c_void_p * BANKS)(*(c.ctypes.data for c in contents))
    sizes = (ctypes.c_int64 * BANKS)(*(len(banks.get(i, b"")) for i in range(BANKS)))
    triple = ctypes.c_uint32 * 3
    known = [*start.ranges, (_BARRIER.ctypes.data, _BARRIER.ctypes.data + _BARRIER.nbytes)]
    ranges = np.array(sorted(known), np.uint64).reshape(-1)
    longest = ctypes.c_uint64()
    error = ctypes.create_string_buffer(512)
    shared = RESERVED_SHARED + program.kernel.static_shared + start.shared
    count = library().issue_model_run(
        program.rows.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(program.lines)), pointers, sizes,
        triple(*start.grid), triple(*start.block), triple(*index), ctypes.c_uint32(start.cluster),
        ctypes.c_int64(shared), ranges.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(known)),
        ctypes.c_int(start.fake_memory), ctypes.c_uint64(MOST_ISSUES),
        *(array.ctypes.data_as(ctypes.c_void_p)
          for array in (counts.issued, counts.lanes, counts.passes, counts.sectors)),
        ctypes.byref(longest), error, ctypes.c_int64(len(error)),
    )  # fmt: skip
    if count < 0:
        raise RuntimeError(_explained(program, error.value.decode()))
    counts.blocks.append(int(count))
    counts.longest.append(longest.value)


def _explained(program: Code, text: str) -> str:
    head, _, rest = text.partition(": ")
    place = ""
    if head.startswith("instruction ") and head.split()[1].isdigit():
        line = program.lines[min(int(head.split()[1]), len(program.lines) - 1)]
        place = f" at {line.address * 16:#x} `{line.text}`"
        if line.source[0]:
            place += f", {Path(line.source[0]).name}:{line.source[1]}"
        text = rest
    return f"issue_model: {program.kernel.name}{place}: {text}"


def _bank0(kernel: Kernel, start: Start) -> bytes:
    """Lay out the driver's constants and the parameters."""
    bank = bytearray(kernel.parameter_base + len(start.parameters))
    for at, values in ((0x0, start.block), (0xC, start.grid)):
        for i, value in enumerate(values):
            bank[at + 4 * i : at + 4 * i + 4] = int(value).to_bytes(4, "little")
    bank[STACK : STACK + 4] = LOCAL_BYTES.to_bytes(4, "little")
    if start.cluster > 1:  # decides whether "barrier.cluster" is the cluster's barrier or the block's
        bank[IN_CLUSTER : IN_CLUSTER + 4] = (1).to_bytes(4, "little")
    if start.cooperative:
        low, high = GRID_WORKSPACE
        address = _BARRIER.ctypes.data.to_bytes(8, "little")
        bank[low : low + 4], bank[high : high + 4] = address[:4], address[4:]
    bank[kernel.parameter_base :] = start.parameters
    return bytes(bank)


def sampled_blocks(grid: tuple[int, int, int], most: int) -> Sequence[tuple[int, int, int]]:
    """Choose all blocks of a small grid; of a large one the first, the last, and others evenly spaced between them."""
    total = grid[0] * grid[1] * grid[2]
    numbers = (
        sorted({round(i * (total - 1) / max(most - 1, 1)) for i in range(most)})
        if total > most
        else range(total)
    )
    return [(n % grid[0], n // grid[0] % grid[1], n // (grid[0] * grid[1])) for n in numbers]
