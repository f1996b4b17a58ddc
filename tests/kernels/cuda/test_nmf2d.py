"""Tests nmf2d's CUDA kernels on the emulator: the forward's variants, the backward, ranks, tails and layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.accuracy import assert_accurate, assert_gradient_accurate
from oracle.gradients import cast
from oracle.inputs import GPU_DTYPES
from segnext_kernels import native
from segnext_kernels.ops.nmf2d import compiled, reference
from segnext_kernels.ops.nmf2d.spec import SPEC
from segnext_kernels.ops.nmf2d_projected import compiled as projected
from segnext_kernels.ops.nmf2d_projected.reference import nmf2d_projected as reference_projected
from segnext_kernels.ops.nmf2d_projected.spec import SPEC as PROJECTED
from tests.contract.cases import assert_bitwise, strides
from tests.cuda_emulator.emulation import Emulator

VARIANTS = {"streaming": 0, "grid": 1, "cluster": 2}
over_dtypes = pytest.mark.parametrize("dtype", GPU_DTYPES.values(), ids=GPU_DTYPES)
over_variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
over_orders = pytest.mark.parametrize("inner_rows", [False, True], ids=["pixels-inner", "channels-inner"])


def arguments(
    b: int, d: int, n: int, r: int, steps: int = 2, dtype: torch.dtype = torch.float32, **others: Any
) -> tuple[Any, ...]:
    return SPEC.samples[0].make(dtype, b=b, d=d, n=n, r=r, steps=steps, **others)


def forward_in(variant: int, args: tuple[Any, ...]) -> Any:
    return compiled.FORWARD["cuda"].run(*args, variant)


def assert_forward_right(args: tuple[Any, ...], outputs: tuple[torch.Tensor, ...]) -> None:
    """Assert the result and the saved states, from which it is made, by eager's error at x's precision."""
    oracle, eager = reference.nmf2d(*cast(args, torch.float64)), reference.nmf2d(*args)
    assert strides(outputs[0]) == strides(eager[0])
    assert_accurate(outputs[0], oracle[0], eager[0])
    for actual, expected, plain in zip(outputs[1:], oracle[1:], eager[1:], strict=True):
        if args[0].dtype != torch.float32:  # products of bases split in two terms: 2^-17 each
            torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-4)
        else:
            assert_accurate(actual, expected, plain)


def assert_backward_right(
    emulator: Emulator, args: tuple[Any, ...], grad: torch.Tensor | None = None
) -> None:
    x, eps, mode = args[0], args[4], args[3]
    _, bases, coef = reference.nmf2d(*args)
    grad = torch.randn_like(x) if grad is None else grad
    actual = emulator.run(compiled.BACKWARD["cuda"].run, grad, x, bases, coef, mode, eps)
    inputs = (grad, x, bases, coef, mode, eps)
    oracle, eager = reference.nmf2d_backward(*cast(inputs, torch.float64)), reference.nmf2d_backward(*inputs)
    assert strides(actual) == strides(eager)
    assert_gradient_accurate(actual, oracle, eager)


@over_dtypes
@over_variants
@over_orders
def test_variants(emulator: Emulator, dtype: torch.dtype, variant: int, inner_rows: bool) -> None:
    emulator.device(resident_blocks=32)
    args = arguments(2, 20, 75, 5, dtype=dtype, inner_rows=inner_rows)
    assert_forward_right(args, emulator.run(forward_in, variant, args))


@over_dtypes
@over_variants
@pytest.mark.parametrize("sizes", [(1, 64, 200, 16), (3, 37, 130, 50), (2, 3, 5, 1), (1, 8, 17, 20)], ids=str)
def test_sizes(
    emulator: Emulator, sizes: tuple[int, int, int, int], variant: int, dtype: torch.dtype
) -> None:
    """Slabs have one or several tiles, the last ones short or empty; ranks and channels are no round numbers."""
    emulator.device(resident_blocks=48)
    emulator.schedule("random", 5)
    args = arguments(*sizes, dtype=dtype, shared=sizes[0] != 3)
    assert_forward_right(args, forward_in(variant, args))


@over_dtypes
@over_variants
def test_pixels_beside_the_image_stay_out_of_the_sums(
    emulator: Emulator, variant: int, dtype: torch.dtype
) -> None:
    """Without eps, the coef of a pixel of zeros is 0 / 0."""
    emulator.device(resident_blocks=32)
    x, bases, steps, grad, _, save = arguments(2, 20, 75, 5, dtype=dtype, positive=True)
    args = (x, bases, steps, grad, 0.0, save)
    assert_forward_right(args, forward_in(variant, args))


@over_variants
def test_several_tiles_of_a_slab(emulator: Emulator, variant: int) -> None:
    """A large batch leaves few slabs per image."""
    emulator.device(resident_blocks=640)
    emulator.schedule("reverse")
    args = arguments(40, 8, 600, 4, 1, torch.bfloat16, inner_rows=True)
    assert_forward_right(args, forward_in(variant, args))


@pytest.mark.parametrize("save", [False, True], ids=["inference", "saved"])
@pytest.mark.parametrize("grad", ["unrolled", "one_step"])
@over_variants
def test_what_is_saved(emulator: Emulator, variant: int, grad: str, save: bool) -> None:
    emulator.device(resident_blocks=32)
    for steps in (0, 1, 3):
        args = arguments(2, 12, 40, 4, steps, grad=grad, save=save)
        assert_forward_right(args, forward_in(variant, args))


@over_dtypes
@over_orders
@pytest.mark.parametrize("grad", ["unrolled", "one_step"])
def test_backward(emulator: Emulator, grad: str, inner_rows: bool, dtype: torch.dtype) -> None:
    assert_backward_right(
        emulator, arguments(2, 20, 75, 5, 2, dtype, grad=grad, inner_rows=inner_rows, positive=True)
    )


@over_dtypes
@pytest.mark.parametrize("sizes", [(1, 70, 150, 50, 1), (3, 9, 66, 4, 2), (1, 4, 1, 1, 0)], ids=str)
def test_backward_sizes(emulator: Emulator, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    b, d, n, r, steps = sizes
    assert_backward_right(emulator, arguments(b, d, n, r, steps, dtype, positive=True))


def test_backward_of_a_rank_above_a_tile(emulator: Emulator) -> None:
    emulator.schedule("random", 2)
    assert_backward_right(emulator, arguments(1, 16, 70, 68, 1, positive=True))


@over_dtypes
def test_views(emulator: Emulator, dtype: torch.dtype) -> None:
    """Channels and pixels come from larger tensors; bases have x's dtype; bases and states are transposed."""
    args = arguments(2, 40, 90, 4, 2, dtype, inner_rows=True, wide_bases=False, positive=True)
    x, bases, *others = args
    for cut in (slice(8, 28), slice(3, 24)):
        turned = bases[:, cut].mT.contiguous().mT
        outputs = compiled.FORWARD["cuda"].run(x[:, cut, 1:-2], turned, *others)
        assert_forward_right((x[:, cut, 1:-2], turned, *others), outputs)
    every_other = x.contiguous()[:, :, ::2]
    assert_forward_right(
        (every_other, bases, *others), compiled.FORWARD["cuda"].run(every_other, bases, *others)
    )
    _, saved_bases, saved_coef = reference.nmf2d(*args)
    grad = torch.randn(1, 1, 1).to(dtype).expand_as(x)
    states = saved_bases, saved_coef
    given = compiled.BACKWARD["cuda"].run(grad, x, *states, "unrolled", 1e-6)
    again = compiled.BACKWARD["cuda"].run(grad, x, *(s.mT.contiguous().mT for s in states), "unrolled", 1e-6)
    assert_bitwise(again, given)
    assert_backward_right(emulator, args, grad)


@over_dtypes
@pytest.mark.parametrize("sizes", [(2, 4, 0, 3), (2, 0, 5, 3), (0, 4, 5, 3), (2, 4, 5, 0)], ids=str)
def test_empty(emulator: Emulator, sizes: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    b, d, n, r = sizes
    args = (torch.rand(b, d, n).to(dtype), torch.rand(1, d, r), 2, "unrolled", 1e-6, True)
    for variant in VARIANTS.values():
        emulator.device(resident_blocks=32)
        for actual, expected in zip(forward_in(variant, args), reference.nmf2d(*args), strict=True):
            torch.testing.assert_close(actual, expected)
    grad = torch.rand(b, d, n).to(dtype)
    actual = compiled.BACKWARD["cuda"].run(grad, args[0], *reference.nmf2d(*args)[1:], "unrolled", 1e-6)
    assert actual.shape == grad.shape and actual.isfinite().all()


@over_dtypes
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
def test_not_finite_pixels(emulator: Emulator, value: float, dtype: torch.dtype) -> None:
    emulator.device(resident_blocks=32)
    args = arguments(2, 20, 70, 5, 1, dtype, positive=True)
    args[0][0, 3, 66] = value
    expected, bases, coef = reference.nmf2d(*args)
    for variant in VARIANTS.values():
        out = forward_in(variant, args)[0]
        assert torch.equal(out.isfinite(), expected.isfinite()) and not out[0].isfinite().all()
    grad = torch.randn_like(args[0])
    rest = (args[0], bases, coef, "unrolled", 1e-6)
    actual, plain = compiled.BACKWARD["cuda"].run(grad, *rest), reference.nmf2d_backward(grad, *rest)
    assert torch.equal(actual.isfinite(), plain.isfinite()) and actual[1].isfinite().all()


def test_large_values(emulator: Emulator) -> None:
    """In float16 coefᵀ coef exceeds 65504, but the state is float32. (The softmax has logits in the hundreds.)"""
    args = arguments(1, 24, 130, 5, 3, torch.float16, scale=300.0)
    out, *states = compiled.FORWARD["cuda"].run(*args)
    assert all(state.isfinite().all() for state in states) and states[1].max() > 256
    assert_accurate(out, reference.nmf2d(*cast(args, torch.float64))[0], reference.nmf2d(*args)[0])


def test_choice_of_variant(emulator: Emulator) -> None:
    """Few images of many pixels take the grid, images that fit take a cluster; others take the grid or streaming."""

    def chosen(b: int, d: int, n: int, r: int) -> int:
        x, bases = torch.empty(b, d, n, dtype=torch.bfloat16), torch.empty(1, d, r)
        outputs = reference.empty_out(x, bases, 7, "unrolled", 1e-6, False)
        views = [native.plain(t) for t in (x, bases, *outputs)]
        return int(native._C.nmf2d_cuda_variant(1, 0, *views, 7, 1e-6, 0))

    emulator.device(resident_blocks=132)
    assert chosen(1, 256, 4096, 16) == chosen(2, 256, 4096, 16) == VARIANTS["grid"]
    assert (
        chosen(3, 256, 4096, 16)
        == chosen(32, 256, 4096, 16)
        == chosen(1, 256, 4032, 16)
        == VARIANTS["cluster"]
    )
    assert chosen(1, 256, 18432, 16) == chosen(1, 512, 4096, 64) == VARIANTS["grid"]
    assert chosen(32, 512, 4096, 64) == chosen(1, 256, 1 << 18, 16) == VARIANTS["streaming"]
    emulator.device(resident_blocks=108, largest_cluster=0, shared_limit=163 * 1024)  # an A100
    assert chosen(1, 256, 4096, 16) == VARIANTS["grid"]
    assert chosen(32, 256, 4096, 16) == VARIANTS["streaming"]


def test_what_does_not_fit_is_said(emulator: Emulator) -> None:
    assert native._C.nmf2d_cuda_fits(1, 1024, 64) and native._C.nmf2d_cuda_fits(0, 2048, 64)
    assert not native._C.nmf2d_cuda_fits(0, 20000, 4) and not native._C.nmf2d_cuda_fits(0, 64, 1 << 40)
    emulator.device(resident_blocks=4, largest_cluster=0)
    args = arguments(5, 8, 20, 4)
    for variant in (VARIANTS["grid"], VARIANTS["cluster"]):
        with pytest.raises(RuntimeError, match="nmf2d: CUDA launch failed"):
            forward_in(variant, args)


def projected_arguments(sizes: tuple[int, ...], dtype: torch.dtype, **others: Any) -> tuple[Any, ...]:
    b, d, n, r, p, steps = sizes
    return PROJECTED.samples[0].make(dtype, b=b, d=d, n=n, r=r, p=p, steps=steps, **others)


def assert_projected_right(args: tuple[Any, ...], out: torch.Tensor) -> None:
    oracle, eager = reference_projected(*cast(args, torch.float64)), reference_projected(*args)
    assert strides(out) == strides(eager)
    assert_accurate(out, oracle, eager)


@over_dtypes
@over_variants
@pytest.mark.parametrize("sizes", [(2, 20, 75, 5, 7, 2), (1, 8, 40, 20, 70, 1), (1, 3, 5, 1, 40, 0)], ids=str)
def test_projection(emulator: Emulator, sizes: tuple[int, ...], variant: int, dtype: torch.dtype) -> None:
    """There are fewer and more rows than channels, a rank per kind of kernel, zero steps, and both orders of axes."""
    emulator.device(resident_blocks=48)
    args = projected_arguments(sizes, dtype, inner_rows=sizes[0] == 2, wide=sizes[0] == 2)
    assert_projected_right(args, emulator.run(projected.KERNELS["cuda"].run, *args, variant))


def test_projection_of_views(emulator: Emulator) -> None:
    emulator.device(resident_blocks=32)
    x, bases, steps, projection, eps = projected_arguments((2, 20, 40, 4, 9, 1), torch.bfloat16, wide=False)
    args = (x[:, 3:, 1:-2], bases[:, 3:], steps, projection[:, 3:].mT.contiguous().mT, eps)
    assert_projected_right(args, projected.KERNELS["cuda"].run(*args))
