"""Tests msca_conv's CUDA kernels on the emulator: their limits, how far NaN reaches, devices of several sizes."""

from __future__ import annotations

import pytest
import torch

from oracle.gradients import cast, random_grad
from oracle.inputs import GPU_DTYPES
from segnext_kernels import native
from segnext_kernels.memory_format import as_format_of
from segnext_kernels.ops.msca_conv import reference
from segnext_kernels.ops.msca_conv.spec import SPEC
from segnext_kernels.spec import Sample
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import assert_backward, assert_forward, kernel

BUILD = SPEC.samples[0].build
dtypes = pytest.mark.parametrize("dtype", GPU_DTYPES.values(), ids=GPU_DTYPES)


@dtypes
@pytest.mark.parametrize("c", [1, 8])
def test_the_longest_strips_fit_every_device(emulator: Emulator, c: int, dtype: torch.dtype) -> None:
    emulator.device(shared_limit=99 * 1024)  # sm_86, sm_89 and sm_120
    limits, pairs = native._C, native._C.MSCA_CONV_MAX_STRIPS
    sizes = {"n": 1, "c": c, "h": 3, "w": 2, "root": limits.MSCA_CONV_MAX_ROOT_CUDA}
    strips = (limits.MSCA_CONV_MAX_TAPS_CUDA,) * pairs
    args = Sample("", BUILD, {**sizes, "strips": strips}).make(dtype, layout=torch.channels_last)
    assert_forward(emulator, SPEC, args)
    strips = (limits.MSCA_CONV_MAX_TAPS_BACKWARD_CUDA,) * pairs
    args = Sample("", BUILD, {**sizes, "strips": strips}).make(dtype, layout=torch.channels_last)
    assert_backward(emulator, SPEC, (as_format_of(random_grad(args[0]), args[0]), *args))


@dtypes
def test_not_a_number_stays_where_it_reaches(emulator: Emulator, dtype: torch.dtype) -> None:
    sizes = {"n": 1, "c": 8, "h": 13, "w": 12, "strips": (3,)}
    args = Sample("", BUILD, sizes).make(dtype, layout=torch.channels_last)
    args[0][0, 3, 6, 5] = torch.nan
    out = emulator.run(kernel("msca_conv"), *args)
    reached = torch.zeros_like(out, dtype=torch.bool)
    reached[0, 3, 3:10, 2:9] = True
    assert torch.equal(out.isnan(), reached)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_not_a_number_on_tensor_cores_stays_close(emulator: Emulator, dtype: torch.dtype) -> None:
    """Zeros beside a Toeplitz matrix's band multiply NaN too, so it spreads, but not far."""
    args = Sample("", BUILD, {"n": 1, "c": 16, "h": 60, "w": 70}).make(dtype, layout=torch.channels_last)
    args[0][0, 3, 30, 50] = torch.nan
    found = emulator.run(kernel("msca_conv"), *args).isnan()
    expected = reference.msca_conv(*cast(args, torch.float32)).isnan()
    assert not (expected & ~found).any()
    may = torch.zeros_like(found)  # as the head of msca_conv_toeplitz_cuda.cu says
    may[:, 3, 30 - 22 : 30 + 21, 50 - 34 : 50 + 29] = True
    assert not (found & ~may).any()


@dtypes
@pytest.mark.parametrize("resident", [1, 7, 64])
def test_segnext_sizes_on_devices_of_any_size(emulator: Emulator, resident: int, dtype: torch.dtype) -> None:
    """Few blocks take all rows each, or many take 8 channels and few rows; rows lie far from borders and close."""
    emulator.device(resident_blocks=resident)
    args = Sample("", BUILD, {"n": 1, "c": 24, "h": 61, "w": 43}).make(dtype, layout=torch.channels_last)
    assert_forward(emulator, SPEC, args)


@dtypes
def test_devices_with_little_shared_memory_take_the_ring_kernel(
    emulator: Emulator, dtype: torch.dtype
) -> None:
    args = SPEC.samples[0].make(dtype, layout=torch.channels_last)
    launches = []
    for limit in (99 * 1024, 163 * 1024):
        emulator.device(shared_limit=limit)
        launches.append(assert_forward(emulator, SPEC, args))
    # both sum in the same order, but tensor cores round a and the rows' results
    assert torch.equal(*launches) == (dtype == torch.float32)
