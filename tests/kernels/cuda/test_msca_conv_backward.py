"""Tests msca_conv's backward on tensor cores, on the emulator: tiles, edges, masks and rings, in every schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.gradients import cast, random_grad
from segnext_kernels.memory_format import as_format_of
from segnext_kernels.ops.msca_conv import reference
from segnext_kernels.ops.msca_conv.spec import SPEC
from segnext_kernels.spec import Sample
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import assert_backward, kernel, poisoned_view

BUILD = SPEC.samples[0].build
dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])


def arguments(dtype: torch.dtype, n: int, c: int, h: int, w: int, **more: bool) -> tuple[Any, ...]:
    return Sample("", BUILD, {"n": n, "c": c, "h": h, "w": w, **more}).make(dtype, layout=torch.channels_last)


def definition(grad: torch.Tensor, x: torch.Tensor, *params: Any) -> list[torch.Tensor]:
    """Compute the definition at least in float32, then round: a stricter bound than PyTorch's 16-bit types set.

    PyTorch's bf16 depthwise convolution hangs under the sanitizers when oneDNN runs it.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    grads = reference.msca_conv_backward(*cast((grad.contiguous(), x.contiguous(), *params), wide))
    return [of.to(x.dtype) for of in grads]


def assert_right(
    emulator: Emulator, args: tuple[Any, ...], grad: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Assert all gradients for an incoming ``grad``, or for a random one as the op's autograd passes it."""
    grad = as_format_of(random_grad(args[0]), args[0]) if grad is None else grad
    return assert_backward(emulator, SPEC, (grad, *args), definition)


@dtypes
@pytest.mark.parametrize(
    ("n", "c", "h", "w"),
    [(2, 8, 13, 33), (1, 16, 45, 70)],
    ids=["one-step-and-a-column-more", "three-tiles-strips-of-rows"],
)
def test_tiles_and_strips_of_rows(
    emulator: Emulator, n: int, c: int, h: int, w: int, dtype: torch.dtype
) -> None:
    assert_right(emulator, arguments(dtype, n, c, h, w))


@pytest.mark.parametrize("absent", ["root_bias", "row_biases", "column_biases"])
def test_without_biases(emulator: Emulator, absent: str) -> None:
    args = arguments(torch.bfloat16, 1, 8, 9, 6, **{absent: False})
    assert_right(emulator, args)


def test_a_block_of_many_steps(emulator: Emulator) -> None:
    """The rings wrap around: x's and ga's after two steps, g's after three."""
    emulator.device(resident_blocks=1)
    args = arguments(torch.bfloat16, 1, 8, 75, 9)
    assert_right(emulator, args)


def test_views_into_larger_images(emulator: Emulator) -> None:
    x, *params = arguments(torch.bfloat16, 1, 8, 6, 5)
    grad = poisoned_view(torch.randn(x.shape).to(x.dtype).contiguous(memory_format=torch.channels_last))
    assert_right(emulator, (poisoned_view(x), *params), grad)


@dtypes
def test_not_a_number_stays_near_and_in_its_channel(emulator: Emulator, dtype: torch.dtype) -> None:
    """Zeros beside a Toeplitz matrix's band multiply NaN too: it gets up to 35 rows and 37 columns away in grad_x."""
    x, *params = arguments(dtype, 1, 8, 80, 100)
    grad = torch.randn(x.shape).to(dtype).contiguous(memory_format=torch.channels_last)
    grad[0, 3, 40, 50] = torch.nan
    found = emulator.run(kernel("msca_conv_backward"), grad, x, *params)
    expected = definition(*cast((grad, x, *params), torch.float32))
    may = torch.zeros_like(found[0], dtype=torch.bool)
    may[:, 3, 5:76, 13:88] = True
    assert not (found[0].isnan() & ~may).any()
    for of, by in zip(found, expected, strict=True):
        assert not (by.isnan() & ~of.isnan()).any()
        others = [c for c in range(8) if c != 3]
        assert of.transpose(0, 1)[others].isfinite().all() if of is found[0] else of[others].isfinite().all()


def test_devices_with_little_shared_memory_take_the_ring(emulator: Emulator) -> None:
    args = arguments(torch.bfloat16, 1, 8, 9, 6)
    results = []
    for limit in (99 * 1024, 227 * 1024):
        emulator.device(shared_limit=limit)
        results.append(assert_right(emulator, args)[0])
    assert not torch.equal(*results)  # the tensor cores round a, h, gh and ga
