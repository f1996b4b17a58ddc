"""Tests conv_ffn's CUDA kernel on the emulator: clusters, residual, NaN and overflow, refusals, traffic."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from oracle.inputs import LAYOUTS
from segnext_kernels.ops.conv_ffn import compiled, reference
from segnext_kernels.ops.conv_ffn.spec import SPEC
from segnext_kernels.spec import Sample
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import assert_forward, kernel, poisoned_view

BUILD = SPEC.samples[0].build
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def arguments(
    dtype: torch.dtype, layout: torch.memory_format = torch.channels_last, **sizes: Any
) -> tuple[Any, ...]:
    return Sample("", BUILD, {"n": 1, **sizes}).make(dtype, layout=layout)


@pytest.mark.parametrize("clusters", [0, 2, 8])
def test_hidden_channels_are_split_over_clusters(emulator: Emulator, clusters: int) -> None:
    """Six slices go to one block, to two blocks, or to four blocks of which two have one slice."""
    emulator.device(largest_cluster=clusters)
    args = arguments(torch.bfloat16, c=32, e=168, co=32, h=4, w=3, residual=True)
    assert_forward(emulator, SPEC, args)


@layouts
def test_residual_in_any_layout(emulator: Emulator, layout: torch.memory_format) -> None:
    args = arguments(torch.float16, layout, n=2, c=24, e=32, co=24, h=3, w=5, residual=True)
    out = assert_forward(emulator, SPEC, args)
    x, *weights = args
    viewed = (poisoned_view(x), *weights)
    assert torch.equal(kernel("conv_ffn")(*viewed), out)
    dw_weight = weights[2].movedim(0, -1).contiguous().movedim(-1, 0)  # hidden channels innermost
    assert torch.equal(kernel("conv_ffn")(x, *weights[:2], dw_weight, *weights[3:]), out)


@dtypes
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_not_a_number_stays_where_it_reaches(emulator: Emulator, dtype: torch.dtype, value: float) -> None:
    """It reaches as far as by the definition, though the Toeplitz product's zeros would spread it along the line."""
    args = arguments(dtype, n=2, c=32, e=32, co=32, h=9, w=13)
    args[0][0, 3, 4, 5] = value
    out = assert_forward(emulator, SPEC, args)
    reached = torch.zeros_like(out, dtype=torch.bool)
    reached[0, :, 3:6, 4:7] = True
    assert torch.equal(~out.isfinite(), reached)


def test_overflow_of_a_hidden_value_stays_where_it_reaches(emulator: Emulator) -> None:
    args = arguments(torch.float16, c=32, e=32, co=32, h=5, w=13)
    x, fc1_weight = args[:2]
    x[0, :, 2, 6] = 6e4
    fc1_weight[7] = 10.0
    found = emulator.run(kernel("conv_ffn"), *args).isfinite()
    assert torch.equal(found, reference.conv_ffn(*args).isfinite())
    assert int((~found).sum()) >= 32


@pytest.mark.parametrize("sizes", [dict(n=0, h=3, w=2), dict(n=2, h=0, w=3)], ids=str)
def test_empty(emulator: Emulator, sizes: dict[str, int]) -> None:
    args = arguments(torch.bfloat16, c=8, e=8, co=8, **sizes)
    assert emulator.run(kernel("conv_ffn"), *args).shape == (sizes["n"], 8, sizes["h"], sizes["w"])


def _refusal(*args: Any) -> str | None:
    """Return the kernel's refusal, apart from devices and dtypes, which the emulator does not have."""
    kernel = compiled.FORWARD["cuda"]
    return dataclasses.replace(kernel, machine=None).reason_against(*args)


def test_what_is_refused(emulator: Emulator) -> None:
    args = arguments(torch.bfloat16, c=16, e=16, co=16, h=2, w=2)
    assert _refusal(*args) is None
    assert "multiples of 8, not 12, 16, 16" in str(
        _refusal(*arguments(torch.bfloat16, c=12, e=16, co=16, h=2, w=2))
    )
    wide = arguments(torch.bfloat16, c=328, e=16, co=16, h=2, w=2)
    assert "up to 320 channels, not 328" in str(_refusal(*wide))
    x, fc1_weight, *rest = args
    assert "dense weights" in str(_refusal(x, fc1_weight.repeat(1, 2, 1, 1)[:, ::2], *rest))
    emulator.device(shared_limit=99 * 1024)
    assert _refusal(*args) is None
    assert "shared memory" in str(_refusal(*arguments(torch.bfloat16, c=320, e=16, co=16, h=2, w=2)))


def test_accesses_are_whole(emulator: Emulator) -> None:
    """In channels_last every requested sector is used, and shared memory is read almost without conflicts."""
    emulator.device(largest_cluster=0)
    args = arguments(torch.bfloat16, c=64, e=64, co=64, h=16, w=14, residual=True)
    with emulator.count() as traffic:
        kernel("conv_ffn")(*args)
    assert traffic["store_global"]["units"] == traffic["store_global"]["fewest"] == 16 * 14 * 64 * 2 // 32
    assert traffic["load_global"]["units"] <= 1.2 * traffic["load_global"]["fewest"], traffic["load_global"]
    for kind in ("load_shared", "store_shared"):
        assert traffic[kind]["units"] <= 1.2 * traffic[kind]["fewest"], (kind, traffic[kind])
