"""Says what the chip does per cycle, and computes a launch's lower bound of time from what it issues.

Every constant of the model is here, with its reason. The bound contains no stalls: no latency, no dependence between
instructions, perfect caches. A kernel can be slower, but not faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

MULTIPROCESSORS = 132  # H100 SXM and H200
CLOCK = 1.7e9  # Hz under load; the boost clock is 1.98
PARTITIONS = 4  # per multiprocessor; each issues one warp instruction per cycle
REGISTERS = 65536
REGISTER_UNIT = 256  # a warp's registers are allocated in such units
MOST_WARPS, MOST_BLOCKS, MOST_THREADS = 64, 32, 1024
SHARED_BYTES = 228 * 1024  # per multiprocessor; a block takes one kilobyte more than it asks for
SHARED_RESERVED, SHARED_UNIT = 1024, 128
MEMORY_BYTES = 4.3e12  # per second, read and written: an H200's device-to-device copy
TENSOR_FLOPS = 790e12  # per second: dense 16-bit products of a library
L2_BYTES = (
    5.5e12  # per second, from the L2 to all multiprocessors: 32 bytes per cycle and multiprocessor at 1.3 GHz
)
LAUNCH = 1.2e-6  # s between two dependent nodes of a graph
CLUSTER_BARRIER = 0.8e-6  # s: every thread's MEMBAR.ALL.GPU, arrival, wait, CCTL.IVALL
GRID_BARRIER = 1.7e-6  # s: an atomic to the L2, polling, MEMBAR.SC.GPU
SECTOR = 32
TENSOR_SYNC = 1024  # dense multiply-adds per cycle and multiprocessor by mma.sync in 16 bits
TENSOR_GROUP = 2048  # the same by wgmma

# Warp instructions per cycle and multiprocessor (CUDA C++ Programming Guide, arithmetic throughput at 9.0, / 32 lanes).
RATES = {
    "fma": 4.0,  # float32 add, multiply, multiply-add
    "imad": 2.0,  # integer multiply-add, also as a move: half of the float32 units do it
    "alu": 2.0,  # integer add, logic, shift, compare, select, byte permutation, packing
    "half": 4.0,  # pairs of 16-bit floats
    "double": 2.0,
    "special": 0.5,  # exponential, reciprocal, root; conversions between integers, floats and doubles
    "uniform": 4.0,  # one scalar unit per partition
    "shuffle": 1.0,  # through the shared-memory crossbar, with "memory"
    "control": 4.0,
    "tensor": math.inf,  # priced by its multiply-adds
    "memory": math.inf,  # priced by passes and sectors
}

PIPES = {
    "fma": "FFMA FADD FMUL FSWZADD",
    "imad": "IMAD",
    "alu": (
        "IADD3 VIADD LEA LOP3 PLOP3 SHF PRMT ISETP SEL FSEL IABS VIMNMX IMNMX VIADDMNMX MOV FMNMX FSETP FSET FCHK"
        " F2FP I2FP SGXT BMSK P2R R2P CS2R VOTE VOTEU HADD2_32 HMNMX2"
    ),
    "half": "HFMA2 HADD2 HMUL2 HSETP2",
    "double": "DADD DMUL DFMA DSETP",
    "special": "MUFU I2F F2I F2F FRND POPC FLO BREV S2R MATCH REDUX",
    "shuffle": "SHFL",
    "tensor": "HMMA HGMMA",
    "memory": "LDG LD LDS STG ST STS LDL STL LDGSTS LDSM STSM ATOMG ATOM RED ATOMS LDC ULDC",
    "control": (
        "BRA CALL RET BRX EXIT BSSY BSYNC BREAK WARPSYNC BAR B2R BMOV NOP YIELD NANOSLEEP ERRBAR CGAERRBAR CCTL MEMBAR"
        " FENCE DEPBAR LDGDEPBAR WARPGROUP UCGABAR_ARV UCGABAR_WAIT ENDCOLLECTIVE PREEXIT ACQBULK CCTLL LEPC"
        " WARPGROUPSET ELECT UGETNEXTWORKID"
    ),
}
_PIPE_OF = {name: pipe for pipe, names in PIPES.items() for name in names.split()}


def pipe(name: str) -> str:
    """Return which units run an instruction, by its name with modifiers."""
    base = name.partition(".")[0]
    if base in _PIPE_OF:
        return _PIPE_OF[base]
    if base.startswith("U") or base in ("R2UR", "S2UR"):
        return "uniform"
    raise ValueError(f"issue_model: {name} belongs to no pipe; add it to PIPES in bench/issue_model/costs.py")


def multiply_adds(name: str) -> int:
    """Return the multiply-adds of a tensor-core instruction by one warp."""
    parts = name.split(".")
    if parts[0] == "HMMA":
        shapes = {"16816": 16 * 8 * 16, "1688": 16 * 8 * 8, "1684": 16 * 8 * 4}
        work = shapes[parts[1]]
        return work * (2 if "TF32" in parts else 1)
    m, n, k = (int(part) for part in parts[1].split("x"))
    return m * n * k // 4 * (2 if "TF32" in parts else 1)  # a warp group's, shared by its four warps


def residency(registers: int, threads: int, shared: int) -> int:
    """Return how many blocks a multiprocessor holds at once; 0 if not even one fits."""
    warps = -(-threads // 32)
    each = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS // PARTITIONS // each * PARTITIONS // warps if each else MOST_BLOCKS
    by_shared = SHARED_BYTES // (-(-(shared + SHARED_RESERVED) // SHARED_UNIT) * SHARED_UNIT)
    return min(MOST_BLOCKS, MOST_WARPS // warps, by_registers, by_shared)


@dataclass
class Work:
    """Holds what one launch issues, all blocks together."""

    blocks: int
    resident: int  # blocks per multiprocessor at once
    warps: int  # per block
    instructions: float
    longest_warp: float  # of the slowest block
    by_pipe: dict[str, float]
    passes: float  # over shared memory
    sectors: float  # of global memory
    tensor: dict[str, float]  # multiply-adds by "HMMA" and "HGMMA"
    cluster_barriers: float = 0.0  # of one block
    grid_barriers: float = 0.0
    bounds: dict[str, float] = field(default_factory=dict)  # seconds

    @property
    def seconds(self) -> float:
        """Return the lower bound."""
        return (
            max(value for name, value in self.bounds.items() if name != "barriers") + self.bounds["barriers"]
        )

    @property
    def binds(self) -> str:
        """Name the largest part of the bound."""
        return max(self.bounds, key=self.bounds.__getitem__)

    @property
    def waves(self) -> float:
        """Return how many times the blocks fill the chip."""
        return self.blocks / (MULTIPROCESSORS * self.resident)

    @property
    def occupancy(self) -> float:
        """Return the warps of a full multiprocessor as a fraction of 64."""
        return self.resident * self.warps / MOST_WARPS


def price(work: Work) -> Work:
    """Fill in the bounds."""
    # the multiprocessor that has most blocks to do
    share = math.ceil(work.blocks / MULTIPROCESSORS) / work.blocks
    cycles = {"issue": work.instructions / PARTITIONS * share}
    for name, count in work.by_pipe.items():
        if RATES[name] < PARTITIONS:
            cycles[name] = count / RATES[name] * share
    shuffles = work.by_pipe.get("shuffle", 0.0)
    cycles.pop("shuffle", None)
    cycles["shared"] = (work.passes + shuffles) * share
    cycles["tensor"] = (
        work.tensor.get("HMMA", 0) / TENSOR_SYNC + work.tensor.get("HGMMA", 0) / TENSOR_GROUP
    ) * share
    # a warp issues at most one instruction per cycle; blocks that do not fit at once follow in rounds
    rounds = math.ceil(math.ceil(work.blocks / MULTIPROCESSORS) / max(work.resident, 1))
    cycles["warp"] = work.longest_warp * rounds
    work.bounds = {name: count / CLOCK for name, count in cycles.items() if count}
    work.bounds["L2"] = work.sectors * SECTOR / L2_BYTES
    work.bounds["barriers"] = work.cluster_barriers * CLUSTER_BARRIER + work.grid_barriers * GRID_BARRIER
    return work


def by_pipe(counted: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sum the instructions by pipe."""
    result: dict[str, float] = {}
    for name, count in counted:
        if count:
            key = pipe(name)
            result[key] = result.get(key, 0.0) + count
    return result
