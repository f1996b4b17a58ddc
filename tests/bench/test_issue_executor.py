"""Tests the executor of sm_90 machine code: results of small kernels, what it counts, what it refuses."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracle.nvcc import NVCC
from oracle.sources import CSRC

pytest.importorskip("triton", reason="the wheel carries nvdisasm")
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")

from bench.issue_model import costs, cubin, decode, executor, model, sass  # noqa: E402
from bench.issue_model.record import Launch  # noqa: E402

PROBES = Path(__file__).with_name("issue_model_probes.cu")
Run = Callable[..., executor.Counts]


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Compile the small kernels to machine code."""
    path = tmp_path_factory.mktemp("probes") / "probes.cubin"
    command = [str(NVCC), "-std=c++17", "-O3", f"-I{CSRC}", "-arch=sm_90", "-lineinfo", "-cubin", str(PROBES)]
    subprocess.run([*command, "-o", str(path)], check=True)
    return path.read_bytes()


def launch(
    content: bytes,
    name: str,
    args: Sequence[Any],
    grid: int = 1,
    block: int = 32,
    shared: int = 1024,
    **more: Any,
) -> Launch:
    """Describe a start of a probe; arrays are passed as addresses, and may be read and written."""
    kernel = cubin.kernels(content)[name]
    packed = bytearray(max(p.offset + p.size for p in kernel.parameters))
    for value, p in zip(args, kernel.parameters, strict=True):
        number = value.ctypes.data if isinstance(value, np.ndarray) else value
        packed[p.offset : p.offset + p.size] = struct.pack("<q" if p.size == 8 else "<i", number)
    ranges = tuple(
        sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in args if isinstance(a, np.ndarray))
    )
    start = executor.Start((grid, 1, 1), (block, 1, 1), shared, bytes(packed), ranges=ranges, **more)
    return Launch(content, name, name, start)


@pytest.fixture
def run(probes: bytes) -> Run:
    """Return a function that runs all blocks of a probe and gives the counts."""

    def run(name: str, *args: Any, **how: Any) -> executor.Counts:
        started = launch(probes, name, args, **how)
        code = executor.code(probes, name)
        counts = executor.empty_counts(code)
        for index in range(started.start.grid[0]):
            executor.run_block(code, started.start, (index, 0, 0), counts)
        return counts

    return run


def test_divisions(run: Run) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(-(2**62), 2**62, 128) >> rng.integers(0, 60, 128)
    b = rng.integers(1, 2**62, 128) >> rng.integers(0, 55, 128)
    b = np.where(b == 0, 7, b) * rng.choice([-1, 1], 128)
    out = np.zeros((128, 8), np.int64)
    run("division_kernel", a, b, out, grid=2, block=64)
    for x, y, row in zip(a.tolist(), b.tolist(), out.tolist(), strict=True):
        quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        ux, uy = x % 2**64, y % 2**64
        narrow, by = ((v + 2**31) % 2**32 - 2**31 for v in (x, y))
        short = abs(narrow) // abs(by) * (1 if (narrow < 0) == (by < 0) else -1) if by else 0
        assert row[0] == quotient and row[1] == x - quotient * y
        assert row[2] % 2**64 == ux // uy and row[3] % 2**64 == ux % uy
        assert row[4] % 2**32 == short % 2**32 and row[5] == (narrow - short * by if by else 0)
        assert row[6] == (narrow % 2**32 // (by % 2**32) if by else 0)
        assert row[7] % 2**64 == (x * y + (x >> 7) - (y << 3)) % 2**64


def test_bits(run: Run) -> None:
    values = np.random.default_rng(1).integers(0, 2**32, (32, 2), dtype=np.uint32)
    values[0], values[1] = (0, 1), (2**31, 2**32 - 1)
    out, shift = np.zeros((32, 16), np.uint32), 11
    run("bits_kernel", values, out, shift)
    for (a, b), row in zip(values.tolist(), out.tolist(), strict=True):
        low, high = ((v + 2**31) % 2**32 - 2**31 for v in (a, b))
        joined = b << 32 | a
        octets = [joined >> 8 * k & 255 for k in range(8)]
        expected = [
            a.bit_count(), 32 - a.bit_length(), int(f"{a:032b}"[::-1], 2),
            octets[5] | octets[0] << 8 | octets[7] << 16 | octets[2] << 24,
            (joined << shift) >> 32, joined >> shift, a * b >> 32, min(low, high), max(a, b), abs(low),
            (a & b) ^ ~(a | (b >> shift)), low >> shift, a << (b & 31), (low < high) + 2 * (a < b), low * high >> 32,
            a * 3 + b,
        ]  # fmt: skip
        assert row == [value % 2**32 for value in expected], (hex(a), hex(b))


def test_each_lane_loops_as_often_as_it_must(run: Run) -> None:
    numbers = np.arange(1, 65, dtype=np.int32)
    out = np.zeros(64, np.int32)
    run("collatz_kernel", numbers, out, block=64)

    def steps(n: int) -> int:
        count = 0
        while n != 1 and count <= 60:
            n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
        return count

    assert out.tolist() == [steps(int(n)) for n in numbers]


def test_lanes_that_end_inside_a_branch_are_not_waited_for(run: Run) -> None:
    values = np.arange(32, dtype=np.int32)
    out = np.zeros(64, np.int32)
    run("exits_kernel", values, out)
    assert out[:32].tolist() == [int(10 < v <= 20) for v in values]
    assert all(int(bits) % 2**32 == sum(1 << v for v in range(6, 21)) for bits in out[32:53])
    assert not out[53:].any()


def test_block_sum_over_a_strided_array(run: Run) -> None:
    values = np.random.default_rng(2).integers(-8, 8, (1000, 3)).astype(np.float32)
    out = np.zeros(2, np.float32)
    run("block_sum_kernel", values, 3, 1000, out, grid=2, block=96)
    assert out.tolist() == [values[:, 0].sum()] * 2


def test_warp_operations(run: Run) -> None:
    values = np.random.default_rng(3).integers(-4, 30, 64).astype(np.int32)
    out = np.zeros((64, 8), np.int32)
    run("warp_kernel", values, out, block=64)
    for warp in range(2):
        v = values[32 * warp : 32 * warp + 32]
        o = out[32 * warp : 32 * warp + 32]
        lanes = np.arange(32)
        assert (o[:, 0] == v[lanes ^ 5]).all()
        assert (o[:, 1] == v[np.where(lanes >= 3, lanes - 3, lanes)]).all()
        assert (o[:, 2] == v[np.where(lanes + 9 < 32, lanes + 9, lanes)]).all()
        assert (o[:, 3] == v[lanes // 8 * 8 + (lanes + 3) % 8]).all()
        ballot = sum(1 << int(lane) for lane in lanes if v[lane] % 3 == 0)
        assert all(int(bits) % 2**32 == ballot for bits in o[:, 4])
        assert (o[:, 5] == int((v < 0).any()) + 2).all()
        for lane in lanes[v >= 0]:
            same = sum(1 << int(k) for k in lanes if v[k] == v[lane])
            assert int(o[lane, 7]) % 2**32 == same
    assert (out[:, 6] == (values > 0).sum()).all()


def test_floats(run: Run) -> None:
    from math import erf

    rng = np.random.default_rng(4)
    a, b = (rng.normal(size=64).astype(np.float32) * 5 for _ in range(2))
    a[:3], b[:3] = (np.nan, 1e-39, 3e38), (1.0, 1e-30, 1e-3)
    out = np.zeros((64, 10), np.float32)
    run("floats_kernel", a, b, out, block=64)
    with np.errstate(all="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        bfloat = (
            (((a.view(np.uint32).astype(np.uint64) + 0x7FFF + (a.view(np.uint32) >> 16 & 1)) >> 16) << 16)
            .astype(np.uint32)
            .view(np.float32)
        )
        expected = np.stack([
            x / y, np.sqrt(np.abs(x)), np.exp(0.1 * x), [erf(v) for v in x], x * y - x,
            np.fmin(a, b) - np.fmax(a, -b), np.trunc(np.where(np.abs(x) < 2**31, x, 2.0**31)) + np.floor(y),
            bfloat + b.astype(np.float16).astype(np.float32), x * y + 0.25,
            np.where(a > b, 1, np.where(np.isnan(a), 2, 3)),
        ], 1).astype(np.float32)  # fmt: skip
    rows = np.arange(64) > 2
    np.testing.assert_allclose(out[rows], expected[rows], rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(
        out[1:3, 0], expected[1:3, 0], rtol=1e-5
    )  # tiny and huge: the division's slow path
    assert np.isnan(out[0, 0]) and out[0, 9] == 2


def test_local_memory(run: Run) -> None:
    values = np.random.default_rng(5).integers(0, 99, 16).astype(np.int32)
    out = np.zeros(32, np.int32)
    run("local_kernel", values, out, 11)
    expected = [sum((values[values[i] & 15] + t) * (i + 1) for i in range(11)) for t in range(32)]
    assert out.tolist() == expected


def test_matrix_product_of_a_warp(run: Run) -> None:
    rng = np.random.default_rng(6)
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((16, 16), (16, 8)))
    as_bfloat = [(v.view(np.uint32) >> 16).astype(np.uint16) for v in (a, b)]
    out = np.zeros((16, 8), np.float32)
    run("product_kernel", *as_bfloat, out)
    assert (out == a @ b).all()


@pytest.mark.parametrize(
    ("stride", "spread", "passes", "sectors"), [(1, 1, 1, 4), (2, 8, 2, 32), (33, 4, 1, 16)]
)
def test_bank_conflicts_and_sectors(
    run: Run, probes: bytes, stride: int, spread: int, passes: int, sectors: int
) -> None:
    values = np.zeros(32 * spread + 8, np.float32)
    values = values[(-values.ctypes.data // 4) % 8 :]  # from a sector's beginning
    out = np.zeros(32, np.float32)
    counts = run("traffic_kernel", values, out, stride, spread, shared=33 * 32 * 4)
    by_name = {line.name: i for i, line in enumerate(executor.code(probes, "traffic_kernel").lines)}
    assert counts.passes[by_name["STS"]] == counts.passes[by_name["LDS"]] == passes
    assert counts.sectors[by_name["LDG.E"]] == sectors


def test_what_is_counted_is_what_runs(run: Run, probes: bytes) -> None:
    values, out = np.arange(1, 33, dtype=np.int32), np.zeros(32, np.int32)
    one = run("collatz_kernel", values, out)
    assert int(one.issued.sum()) == one.blocks[0] == one.longest[0]
    two = run("collatz_kernel", np.concatenate([values, values]), np.zeros(64, np.int32), block=64)
    assert two.blocks[0] == 2 * one.blocks[0] and two.longest == one.longest
    assert (one.lanes <= 32 * one.issued).all()


def test_barriers_are_priced(probes: bytes) -> None:
    grid = model.modelled(launch(probes, "barriers_kernel", (5,), grid=6, block=64, cooperative=True))
    assert grid.work.grid_barriers == 5
    assert grid.work.seconds > 5 * costs.GRID_BARRIER
    out = np.zeros(64, np.float32)
    cluster = model.modelled(launch(probes, "cluster_kernel", (out, 3), grid=4, block=64, cluster=4))
    assert cluster.work.cluster_barriers == 3
    assert (out == 6.0).all()


def test_a_branch_on_a_value_that_nobody_wrote_is_an_error(run: Run) -> None:
    with pytest.raises(
        RuntimeError, match=r"unwritten_kernel at 0x\w+ `.*issue_model_probes.cu:\d+: a branch depends"
    ):
        run("unwritten_kernel", np.zeros(3200, np.float32))


def test_a_load_outside_of_every_tensor_is_an_error(run: Run) -> None:
    with pytest.raises(RuntimeError, match="loads 4 bytes at 0x[0-9a-f]+, outside of every tensor"):
        run("traffic_kernel", np.zeros(16, np.float32), np.zeros(32, np.float32), 1, 1)


def test_an_unknown_instruction_is_an_error_that_names_it() -> None:
    line = sass.Line(3, "PT", False, "FROBNICATE.U32", ("R1", "R2"), "FROBNICATE.U32 R1, R2", ("", 0))
    with pytest.raises(
        sass.UnknownInstruction, match=r"unknown instruction at 0x0030: FROBNICATE.U32 R1, R2"
    ):
        decode.program([line], executor.operations())
    with pytest.raises(ValueError, match="FROBNICATE.U32 belongs to no pipe"):
        costs.pipe("FROBNICATE.U32")


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "blocks"),
    [
        (32, 256, 0, 8),
        (160, 256, 0, 1),
        (128, 256, 0, 2),
        (64, 128, 100 * 1024, 2),
        (16, 32, 0, 32),
        (255, 1024, 0, 0),
    ],
)
def test_residency(registers: int, threads: int, shared: int, blocks: int) -> None:
    assert costs.residency(registers, threads, shared) == blocks
