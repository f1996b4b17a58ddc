"""group_norm_act's CUDA kernels on the emulator: both ways to cut the work, with vectors and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.accuracy import assert_gradient_accurate
from oracle.gradients import cast, random_grad
from oracle.inputs import GPU_DTYPES, LAYOUTS
from segnext_kernels.memory_format import as_format_of
from segnext_kernels.ops.group_norm_act import compiled, reference
from segnext_kernels.ops.group_norm_act.spec import SPEC
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import assert_forward, poisoned_view

dtypes = pytest.mark.parametrize("dtype", GPU_DTYPES.values(), ids=GPU_DTYPES)
FORWARD, BACKWARD = compiled.FORWARD["cuda"].run, compiled.BACKWARD["cuda"].run

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def arguments(
    sizes: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.channels_last,
    residual: bool = True,
    act: str = "relu",
    affine: torch.dtype | None = None,
    offset: float = 0.0,
) -> tuple[Any, ...]:
    n, c, groups, h, w = sizes
    x = (torch.randn(n, c, h, w) + offset).to(dtype).contiguous(memory_format=layout)
    add = torch.randn(n, c, h, w).to(dtype).contiguous(memory_format=layout) if residual else None
    weight, bias = ((torch.randn(c) * 0.5 + 1).to(affine or dtype), torch.randn(c).to(affine or dtype))
    return x, groups, weight, bias, 1e-5, add, act


def assert_right(emulator: Emulator, args: tuple[Any, ...]) -> None:
    x, groups, weight, _, eps, residual, act = args
    out = assert_forward(emulator, FORWARD, reference.group_norm_act, args)
    grad = as_format_of(random_grad(out), x)
    args = (grad, x, out, groups, weight, eps, act, residual is not None)
    grads = emulator.run(BACKWARD, *args)
    oracle = reference.group_norm_act_backward(*cast(args, torch.float64))
    eager = reference.group_norm_act_backward(*args)
    for index, triple in enumerate(zip(grads, oracle, eager, strict=True)):
        assert_gradient_accurate(*triple, what=f"gradient {index}")


@dtypes
@layouts
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((2, 32, 8, 9, 8), id="vectors"),
        pytest.param((1, 64, 4, 23, 24), id="several-chunks"),
        pytest.param((2, 20, 5, 5, 7), id="odd-channels-and-pixels"),
        pytest.param((3, 6, 1, 3, 5), id="one-group"),
    ],
)
def test_forward_and_backward(
    emulator: Emulator, sizes: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    assert_right(emulator, arguments(sizes, dtype, layout))


@layouts
@pytest.mark.parametrize("sample", SPEC.samples, ids=lambda sample: sample.name)
def test_samples(emulator: Emulator, sample: Any, layout: torch.memory_format) -> None:
    assert_right(emulator, sample.make(torch.float32, layout=layout))


@layouts
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_float32_parameters(emulator: Emulator, dtype: torch.dtype, layout: torch.memory_format) -> None:
    assert_right(emulator, arguments((2, 16, 4, 6, 8), dtype, layout, act="none", affine=torch.float32))


def test_more_channels_than_threads(emulator: Emulator) -> None:
    assert_right(emulator, arguments((1, 264, 4, 3, 3), torch.float32))  # 66 vectors
    assert_right(emulator, arguments((1, 265, 5, 2, 3), torch.float32))  # as planes


def test_several_passes_of_a_block(emulator: Emulator) -> None:
    """What a thread has is merged with what it takes next; rows drift, so that both differ."""
    x, *rest = arguments((1, 512, 8, 23, 24), residual=False)
    assert_right(emulator, (x + torch.arange(23.0).view(-1, 1), *rest))
    x, *rest = arguments((1, 513, 3, 33, 33), layout=torch.contiguous_format, residual=False)
    assert_forward(
        emulator,
        FORWARD,
        reference.group_norm_act,
        (x + torch.arange(33.0).view(-1, 1), *rest),
    )


@layouts
def test_views_and_other_layouts(emulator: Emulator, layout: torch.memory_format) -> None:
    args = arguments((2, 16, 4, 6, 8), torch.bfloat16, layout)
    assert_right(emulator, (poisoned_view(args[0]), *args[1:]))
    other = next(value for value in LAYOUTS.values() if value != layout)
    assert_right(emulator, (*args[:5], args[5].contiguous(memory_format=other), args[6]))
    shifted = torch.empty(args[0].numel() + 1, dtype=torch.bfloat16)[1:]  # 2 bytes beside a multiple of 16
    x = shifted.as_strided(args[0].shape, args[0].stride()).copy_(args[0])
    assert_right(emulator, (x, *args[1:]))


@layouts
def test_an_offset_costs_no_digits(emulator: Emulator, layout: torch.memory_format) -> None:
    assert_right(emulator, arguments((1, 32, 4, 23, 24), torch.float32, layout, offset=100.0))


@layouts
def test_nan_stays_in_its_group(emulator: Emulator, layout: torch.memory_format) -> None:
    args = arguments((2, 32, 8, 5, 8), torch.float32, layout)
    args[0][0, 5, 3, 3] = torch.nan
    out = emulator.run(FORWARD, *args)
    assert out[0, 4:8].isnan().all()
    assert out[0, :4].isfinite().all() and out[0, 8:].isfinite().all() and out[1].isfinite().all()
    grad = as_format_of(random_grad(out), out)
    grad_x, grad_weight, grad_bias, grad_residual = emulator.run(
        BACKWARD, grad, args[0], out, 8, args[2], 1e-5, "relu", True
    )
    assert grad_weight.isnan().nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert grad_x[0, 4:8].isnan().all() and grad_x[1].isfinite().all() and grad_bias.isfinite().all()
    assert torch.equal(grad_residual[0, 4:8], grad[0, 4:8])


def test_parameters_that_are_views(emulator: Emulator) -> None:
    args = arguments((1, 32, 4, 5, 8), torch.bfloat16, affine=torch.float32)
    weight = torch.randn(64)[::2]
    assert_right(emulator, (*args[:2], weight, torch.randn(33)[1:], *args[4:]))


def test_no_image(emulator: Emulator) -> None:
    args = arguments((0, 16, 4, 6, 8))
    assert emulator.run(FORWARD, *args).shape == (0, 16, 6, 8)
    grads = emulator.run(BACKWARD, args[0], args[0], args[0], 4, args[2], 1e-5, "relu", True)
    assert grads[0].shape == (0, 16, 6, 8) and not grads[1].any() and not grads[2].any()


def test_traffic_is_what_the_header_says(emulator: Emulator) -> None:
    args = arguments((1, 64, 8, 32, 32), torch.bfloat16, residual=False)
    x_sectors = args[0].numel() * 2 // 32
    with emulator.count() as traffic:
        FORWARD(*args)
    # x twice, and the parameters and partial sums
    assert 2 * x_sectors <= traffic["load_global"]["units"] <= 2.4 * x_sectors
    assert traffic["store_global"]["units"] <= 1.1 * x_sectors
    for kind in ("load_shared", "store_shared"):
        assert traffic[kind]["units"] <= 2 * traffic[kind]["fewest"], (kind, traffic[kind])
