"""Tests the emulator of CUDA: what it computes, and that it sees broken kernels."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.cuda_emulator import build, plugin
from tests.cuda_emulator.emulation import SCHEDULES, Emulator

pytestmark = pytest.mark.proof
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
needs_sanitizer = pytest.mark.skipif(
    build.preloaded() is None, reason="g++ with AddressSanitizer is not installed"
)


def probe(
    emulator: Emulator, name: str, values: torch.Tensor, out: torch.Tensor, parameter: int = 0
) -> torch.Tensor:
    emulator.module.probe(name, values.data_ptr(), out.data_ptr(), parameter)
    return out


def in_every_schedule(
    emulator: Emulator, name: str, values: torch.Tensor, out: torch.Tensor, parameter: int = 0
) -> torch.Tensor:
    return emulator.run(lambda: probe(emulator, name, values, out.clone(), parameter))


def test_shuffles_and_votes(emulator: Emulator) -> None:
    values = torch.randperm(32, dtype=torch.int32)
    lanes = torch.arange(32)
    out = in_every_schedule(emulator, "shuffles", values, torch.empty(7, 32, dtype=torch.int32))
    assert torch.equal(out[0], values[lanes ^ 5])
    assert torch.equal(out[1], values[torch.where(lanes < 3, lanes, lanes - 3)])
    assert torch.equal(out[2], values[torch.where(lanes + 9 < 32, lanes + 9, lanes)])
    assert torch.equal(out[3], values[lanes // 8 * 8 + (lanes + 3) % 8])
    ballot = sum(1 << lane for lane in range(32) if values[lane] % 3 == 0)
    assert all(int(value) % 2**32 == ballot for value in out[4])
    assert (out[5] == 2).all()
    assert (out[6, :16] == values[:16].sum()).all() and (out[6, 16:] == values[16:].max()).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrix_product(emulator: Emulator, dtype: str) -> None:
    values = torch.randn(16 * 16 + 16 * 8).to(DTYPES[dtype])
    out = in_every_schedule(emulator, f"product {dtype}", values, torch.empty(16, 8), 1)
    expected = values[:256].view(16, 16).double() @ values[256:].view(16, 8).double()
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_copies_arrive_when_they_are_waited_for(emulator: Emulator) -> None:
    values = torch.randn(16 * 16 + 16 * 8).half()
    assert probe(emulator, "product fp16", values, torch.empty(16, 8), 0).isnan().all()
    values = torch.randn(12)
    out = probe(emulator, "late groups", values, torch.empty(12))
    assert torch.equal(out[:4], values[:4]) and not out[4:8].any() and out[8:].isnan().all()


def test_clusters(emulator: Emulator) -> None:
    assert (in_every_schedule(emulator, "cluster", torch.empty(1), torch.empty(8 * 64)) == 10).all()
    values = []
    for schedule in SCHEDULES:  # the probe leaves out its first barrier
        emulator.schedule(schedule)
        values.append(probe(emulator, "cluster", torch.empty(1), torch.empty(8 * 64), 1))
    assert torch.stack(values).isnan().any()
    emulator.device(largest_cluster=0)
    with pytest.raises(RuntimeError, match="invalid argument"):
        probe(emulator, "cluster", torch.empty(1), torch.empty(8 * 64))


def test_grid_barriers(emulator: Emulator) -> None:
    out = in_every_schedule(emulator, "grid", torch.empty(1), torch.zeros(24))
    assert out[6:].tolist() == [value for value in (15, 615, 1215) for _ in range(6)]
    emulator.device(resident_blocks=5)
    with pytest.raises(RuntimeError, match="too many blocks"):
        probe(emulator, "grid", torch.empty(1), torch.zeros(24))


def test_sums_of_blocks_and_atomics(emulator: Emulator) -> None:
    values = torch.randn(5, 96)
    out = in_every_schedule(emulator, "sums", values, torch.zeros(16))
    blocks = out[:15].view(5, 3).double()
    torch.testing.assert_close(blocks[:, 0], values.double().sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(blocks[:, 1], values.double().square().sum(1), rtol=1e-5, atol=1e-5)
    assert torch.equal(blocks[:, 2], (values > 0).sum(1).double())
    assert out[15:].view(torch.int32).item() == int((values > 0).sum())


def _rounded(exact: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 to 16 bits, once."""
    if dtype == torch.float16:
        with np.errstate(over="ignore"):
            return torch.from_numpy(exact.astype(np.float16))
    values = torch.from_numpy(exact)
    single = values.float()
    # to odd, so that float32's rounding does not count
    bits = single.view(torch.int32)
    bits = torch.where(single.double().abs() > values.abs(), bits - 1, bits)
    bits = torch.where(single.double() != values, bits | 1, bits)
    return bits.view(torch.float32).bfloat16()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_the_hardwares(emulator: Emulator, dtype: str) -> None:
    bits = torch.randint(0, 2**32, (20000,)).to(torch.uint32).view(torch.float32)
    special = torch.tensor(
        [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65519.996, 65520.0, 2.0**-25, 1.5 * 2**-25, 6e-8]
    )
    ties = torch.arange(1, 4000, 2) * 2.0**-12 + 1  # half way between two of 11 bits, and beside it
    values = torch.cat([bits, special, ties, ties.nextafter(torch.tensor(9.0)), torch.randn(2000) * 1e-5])
    out = probe(
        emulator, f"convert {dtype}", values, torch.empty(len(values), dtype=DTYPES[dtype]), len(values)
    )
    expected = values.to(DTYPES[dtype])
    assert torch.equal(out.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    operands = (torch.randn(3, 5000) * torch.randn(3, 5000).exp()).to(DTYPES[dtype])
    out = probe(emulator, f"arithmetic {dtype}", operands, torch.empty(3, 5000, dtype=DTYPES[dtype]), 5000)
    a, b, c = operands.double().numpy()
    for result, exact in zip(out, (a + b, a * b, a * b + c), strict=True):
        assert torch.equal(result, _rounded(exact, DTYPES[dtype]))


def test_a_missing_barrier_shows_in_a_schedule(emulator: Emulator) -> None:
    values = torch.randn(96)
    out = in_every_schedule(emulator, "neighbours", values, torch.empty(96), 1)
    assert torch.equal(out, values.roll(-1))
    for schedule in SCHEDULES:
        emulator.schedule(schedule)
        out = probe(emulator, "neighbours", values, torch.empty(96), 0)
        # what nobody wrote is NaN, in the random schedule a large number
        assert ((out > 1e8) if schedule == "random" else out.isnan()).any()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (0, r"block \(0, 0, 0\).* the barrier probes.cu:\d+"),
        (1, r"is at the barrier probes.cu:\d+ while others wait at probes.cu:\d+"),
        (2, r"lanes 00000001 have ended|no thread can go on; .* wait for lanes of their warp|have ended"),
        (3, "a shuffle reads lane 12, which takes no part in it"),
        (6, r"grid_sync \(probes.cu:\d+\) in a grid that is not cooperative"),
        (7, "lanes . and . of a warp meet in different operations"),
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_reports(emulator: Emulator, schedule: str, fault: int, message: str) -> None:
    emulator.schedule(schedule)
    with pytest.raises(RuntimeError, match=message):
        probe(emulator, "faulty", torch.empty(1), torch.zeros(64), fault)
    # the next launch works as if nothing had happened
    values = torch.randn(96)
    assert torch.equal(probe(emulator, "neighbours", values, torch.empty(96), 1), values.roll(-1))


@needs_sanitizer
@pytest.mark.parametrize(
    ("name", "parameter", "report"),
    [
        ("faulty", 4, "AddressSanitizer: use-after-poison"),
        ("faulty", 5, "misaligned address"),
        ("cluster", 2, "AddressSanitizer: use-after-poison"),
    ],
    ids=["past-shared-memory", "misaligned-vector", "memory-of-a-block-that-has-ended"],
)
def test_sanitizers_report(name: str, parameter: int, report: str) -> None:
    library = build.library()
    code = (
        "import ctypes; from tests.cuda_emulator.emulation import load_module\n"
        f"module = load_module({str(library)!r}); out = (ctypes.c_float * 512)()\n"
        f"module.probe({name!r}, 0, ctypes.addressof(out), {parameter})"
    )
    environment = plugin.sanitized_environment(library)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=build.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0 and report in done.stderr, done.stderr[-3000:]


def test_traffic(emulator: Emulator) -> None:
    def count(stride: int) -> dict[str, dict[str, int]]:
        with emulator.count() as traffic:
            probe(emulator, "traffic", torch.randn(64 * stride), torch.empty(64), stride)
        return traffic

    dense, wide = count(1), count(32)
    assert dense["load_global"] == {"requests": 2, "units": 8, "fewest": 8, "bytes": 256, "touched": 8}
    assert dense["store_shared"]["units"] == dense["store_shared"]["fewest"] == 2
    assert wide["load_global"] == {"requests": 2, "units": 64, "fewest": 8, "bytes": 256, "touched": 64}
    assert wide["load_shared"]["units"] == 64 and wide["load_shared"]["fewest"] == 2
    assert wide["store_global"]["units"] == 8


KERNEL, TILING = "ops/upsample_argmax/upsample_argmax_cuda.cu", "ops/upsample_argmax/tiling.cuh"
# name -> the file to be broken, its text, the text that replaces it, and what the report must say
BREAKS = {
    "missing-barrier": (
        KERNEL,
        "  interpolate(tile, t.group, t.width);\n  __syncthreads();",
        "  interpolate(tile, t.group, t.width);",
        "reverse against forward",
    ),
    "wrong-halo-mask": (
        TILING,  # not in `TileBounds`: a tile larger than its shared memory would read anywhere
        "const int run = at.corners_x * (kClassesInner",
        "const int run = (at.cells_x + 1) * (kClassesInner",
        "heap-buffer-overflow",
    ),
    "unwritten-tail": (
        KERNEL,
        "  if (column >= tile.at.columns) return;\n",
        "  if (column >= tile.at.columns - 4) return;\n",
        "labels: 255 is no class of 19",
    ),
}


@needs_sanitizer
@pytest.mark.parametrize("name", BREAKS)
def test_broken_kernels_are_reported(request: pytest.FixtureRequest, name: str) -> None:
    file, right, wrong, report = BREAKS[name]
    library = build.broken_library("upsample_argmax", file, right, wrong)
    case = "upsample_argmax-k19-four-tiles-fp32-nchw"
    test = f"tests/kernels/cuda/test_ops.py::test_forward_and_backward[{case}]"
    result = plugin.run(library, [test], request.config)[test]
    assert result["outcome"] == "failed"
    assert report in result["text"], result["text"][-3000:]
    print(result["text"][-1500:])
