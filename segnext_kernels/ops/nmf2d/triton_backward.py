"""Gradient of nmf2d in Triton, from the bases and coef saved before each update; the maths is in `csrc/ops/nmf2d`.

Levels go from the last saved state down to the softmax. B, C are the state of a level, C' the coef after its update,
g(Y) the gradient of Y. Each level has two kernels:

`pixel_kernel`, one program per chunk of pixels: num = Xᵀ B, den = C BᵀB + eps,
    g(num) = g(C') C / den,  g(den) = -g(num) num / den,  g(C) = g(C') num / den + g(den) BᵀB
and, for the kernel below, its sums X g(num), X C, K = Cᵀ g(den), CᵀC. At the top, g(C') is grad_outᵀ B, and grad_out C'
is added to the first sum. At the other levels, the contribution of the update of the bases above is added: Xᵀ g(num') +
C' (K' + K'ᵀ).
`channel_kernel`, one program per tile of channels: undoes the update of the bases that led to this level.

Last, `grad_x_kernel` makes the sum over levels of g(num) Bᵀ + C' g(num')ᵀ as one product of (2 s + 1) R terms: grad_x
is written once and never rounded in between. "one_step" is the top level alone.

Model for an H200, per image of D channels, N pixels, rank R, s steps, e bytes per element: (12 s + 8) D N R FLOP, and
more as products of parts (`triton_products`). X is read 2 s + 1 times, every second time from L2, grad_out twice;
grad_x is written once. g(num) of all levels is kept, 4 (s + 1) N R bytes, as much as the saved coef. 2 s + 3 launches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels.memory_format import empty_matrices_like
from segnext_kernels.ops.nmf2d import reference
from segnext_kernels.ops.nmf2d.triton_products import (
    Cut,
    data_product,
    gram_kernel,
    load_matrix,
    space_of,
    store_matrix,
    sum_parts,
)
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.tuning import Config, Space, config, size_class


@triton.jit
def pixel_kernel(
    x_ptr, grad_ptr, bases_ptr, bases_grad_num_ptr, gram_ptr, cross_ptr, coef_ptr, coef_above_ptr,
    last_coef_ptr, grad_coef_ptr, grad_num_ptr, partial_ptr, partial_gram_ptr,
    channels, pixels, rank, gram_tiles, chunks, tiles_per_chunk, eps,
    stride_xb, stride_xd, stride_xn, stride_gb, stride_gd, stride_gn,
    TOP: tl.constexpr, BOTTOM: tl.constexpr, SOFTMAX: tl.constexpr, PRECISION: tl.constexpr,
    GRAM_PARTS: tl.constexpr, RANK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0) % chunks
    image = (tl.program_id(0) // chunks).to(tl.int64)
    x_ptr += image * stride_xb
    grad_ptr += image * stride_gb
    bases_ptr += image * channels * rank
    bases_grad_num_ptr += image * channels * rank
    coef_ptr += image * pixels * rank
    coef_above_ptr += image * pixels * rank
    last_coef_ptr += image * pixels * rank
    grad_coef_ptr += image * pixels * rank
    grad_num_ptr += image * pixels * rank
    r = tl.arange(0, RANK)
    square = rank * rank
    grams = image * gram_tiles * square
    gram = sum_parts(gram_ptr + grams, gram_tiles, square, r, rank, rank, RANK, RANK, GRAM_PARTS)
    if not TOP:
        cross = sum_parts(cross_ptr + grams, gram_tiles, square, r, rank, rank, RANK, RANK, GRAM_PARTS)
        cross += tl.trans(cross)
    first_tile = chunk * tiles_per_chunk
    last_tile = tl.minimum(first_tile + tiles_per_chunk, tl.cdiv(pixels, BLOCK_N))
    coef_gram = tl.zeros((RANK, RANK), tl.float32)
    grad_gram = tl.zeros((RANK, RANK), tl.float32)
    for tile in range(first_tile, last_tile):
        n = (tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        known = (n < pixels)[:, None] & (r < rank)[None, :]
        num = tl.zeros((BLOCK_N, RANK), tl.float32)
        grad_new = tl.zeros((BLOCK_N, RANK), tl.float32)
        for start in range(0, channels, BLOCK_D):
            d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
            mask = (n < pixels)[:, None] & (d < channels)[None, :]
            x = tl.load(x_ptr + (n * stride_xn)[:, None] + (d * stride_xd)[None, :], mask=mask, other=0.0)
            bases = load_matrix(bases_ptr, d, channels, rank, RANK)
            num = data_product(x, bases, num, PRECISION)
            if TOP:
                grad = tl.load(
                    grad_ptr + (n * stride_gn)[:, None] + (d * stride_gd)[None, :], mask=mask, other=0.0
                )
                grad_new = data_product(grad, bases, grad_new, PRECISION)
            else:
                bases_grad_num = load_matrix(bases_grad_num_ptr, d, channels, rank, RANK)
                grad_new = data_product(x, bases_grad_num, grad_new, PRECISION)
        coef = load_matrix(coef_ptr, n, pixels, rank, RANK)
        if not TOP:
            above = load_matrix(coef_above_ptr, n, pixels, rank, RANK)
            grad_new += load_matrix(grad_coef_ptr, n, pixels, rank, RANK)
            grad_new += tl.dot(above, cross, input_precision="ieee")
        den = tl.dot(coef, gram, input_precision="ieee") + eps
        ratio = tl.where(known, num / den, 0.0)
        grad_num = tl.where(known, grad_new * coef / den, 0.0)
        grad_den = -grad_num * ratio
        grad_coef = grad_new * ratio + tl.dot(grad_den, gram, input_precision="ieee")
        if BOTTOM:
            if SOFTMAX:
                grad_num += coef * (grad_coef - tl.sum(grad_coef * coef, 1)[:, None])
        else:
            store_matrix(grad_coef_ptr, grad_coef, n, pixels, rank, RANK)
            coef_gram += tl.dot(tl.trans(coef), coef, input_precision="ieee")
            grad_gram += tl.dot(tl.trans(coef), grad_den, input_precision="ieee")
            if TOP:
                store_matrix(last_coef_ptr, coef * ratio, n, pixels, rank, RANK)
        store_matrix(grad_num_ptr, grad_num, n, pixels, rank, RANK)
    if not BOTTOM:
        part = image * chunks + chunk
        store_matrix(partial_gram_ptr + 2 * part * square, grad_gram, r, rank, rank, RANK)
        store_matrix(partial_gram_ptr + (2 * part + 1) * square, coef_gram, r, rank, rank, RANK)
        tl.debug_barrier()  # other threads of this program wrote g(num) and C' above; they are read below
        for start in range(0, channels, BLOCK_D):
            d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
            by_grad = tl.zeros((BLOCK_D, RANK), tl.float32)
            by_coef = tl.zeros((BLOCK_D, RANK), tl.float32)
            for tile in range(first_tile, last_tile):
                n = (tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
                mask = (d < channels)[:, None] & (n < pixels)[None, :]
                x = tl.load(x_ptr + (d * stride_xd)[:, None] + (n * stride_xn)[None, :], mask=mask, other=0.0)
                by_grad = data_product(
                    x, load_matrix(grad_num_ptr, n, pixels, rank, RANK), by_grad, PRECISION
                )
                by_coef = data_product(x, load_matrix(coef_ptr, n, pixels, rank, RANK), by_coef, PRECISION)
                if TOP:
                    grad = tl.load(
                        grad_ptr + (d * stride_gd)[:, None] + (n * stride_gn)[None, :], mask=mask, other=0.0
                    )
                    last_coef = load_matrix(last_coef_ptr, n, pixels, rank, RANK)
                    by_grad = data_product(grad, last_coef, by_grad, PRECISION)
            sums = partial_ptr + 2 * part * channels * rank
            store_matrix(sums, by_grad, d, channels, rank, RANK)
            store_matrix(sums + channels * rank, by_coef, d, channels, rank, RANK)


@triton.jit
def channel_kernel(
    bases_ptr, bases_below_ptr, partial_ptr, partial_gram_ptr, grad_bases_ptr, bases_grad_num_ptr,
    gram_ptr, cross_ptr, channels, rank, chunks, tiles, eps,
    TOP: tl.constexpr, RANK: tl.constexpr,
    BLOCK_D: tl.constexpr, PARTS: tl.constexpr, GRAM_PARTS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) % tiles
    image = (tl.program_id(0) // tiles).to(tl.int64)
    d = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    r = tl.arange(0, RANK)
    area, square = channels * rank, rank * rank
    known = (d < channels)[:, None] & (r < rank)[None, :]
    sums = partial_ptr + 2 * image * chunks * area
    grams = partial_gram_ptr + 2 * image * chunks * square
    # one (R, R) matrix after the other: two do not fit the registers beside their factors
    grad = sum_parts(sums, chunks, 2 * area, d, channels, rank, BLOCK_D, RANK, PARTS)
    cross = sum_parts(grams, chunks, 2 * square, r, rank, rank, RANK, RANK, GRAM_PARTS)
    bases = load_matrix(bases_ptr + image * area, d, channels, rank, RANK)
    grad += tl.dot(bases, cross + tl.trans(cross), input_precision="ieee")
    if not TOP:
        grad += load_matrix(grad_bases_ptr + image * area, d, channels, rank, RANK)
    num = sum_parts(sums + area, chunks, 2 * area, d, channels, rank, BLOCK_D, RANK, PARTS)
    coef_gram = sum_parts(grams + square, chunks, 2 * square, r, rank, rank, RANK, RANK, GRAM_PARTS)
    below = load_matrix(bases_below_ptr + image * area, d, channels, rank, RANK)
    den = tl.dot(below, coef_gram, input_precision="ieee") + eps
    ratio = tl.where(known, num / den, 0.0)
    grad_num = tl.where(known, grad * below / den, 0.0)
    grad_den = -grad_num * ratio
    grad = grad * ratio + tl.dot(grad_den, coef_gram, input_precision="ieee")
    store_matrix(grad_bases_ptr + image * area, grad, d, channels, rank, RANK)
    store_matrix(bases_grad_num_ptr + image * area, grad_num, d, channels, rank, RANK)
    part = (image * tiles + tile) * square
    gram = tl.dot(tl.trans(below), below, input_precision="ieee")
    store_matrix(gram_ptr + part, gram, r, rank, rank, RANK)
    grad_gram = tl.dot(tl.trans(below), grad_den, input_precision="ieee")
    store_matrix(cross_ptr + part, grad_gram, r, rank, rank, RANK)


@triton.jit
def grad_x_kernel(
    grad_num_ptr, bases_ptr, coef_ptr, bases_grad_num_ptr, out_ptr,
    batch, channels, pixels, rank, levels, stride_ob, stride_od, stride_on,
    PRECISION: tl.constexpr, RANK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tiles_n, tiles_d = tl.cdiv(pixels, BLOCK_N), tl.cdiv(channels, BLOCK_D)
    program = tl.program_id(0)
    d = program % tiles_d * BLOCK_D + tl.arange(0, BLOCK_D)
    n = (program // tiles_d) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    image = (program // tiles_d // tiles_n).to(tl.int64)
    acc = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for level in range(0, levels):
        at = level * batch + image
        grad_num = load_matrix(grad_num_ptr + at * pixels * rank, n, pixels, rank, RANK)
        bases = load_matrix(bases_ptr + at * channels * rank, d, channels, rank, RANK)
        acc = tl.dot(grad_num, tl.trans(bases), acc, input_precision=PRECISION)
        if level > 0:
            coef = load_matrix(coef_ptr + at * pixels * rank, n, pixels, rank, RANK)
            below = at - batch
            from_below = load_matrix(bases_grad_num_ptr + below * channels * rank, d, channels, rank, RANK)
            acc = tl.dot(coef, tl.trans(from_below), acc, input_precision=PRECISION)
    tl.store(
        out_ptr
        + image * stride_ob
        + n.to(tl.int64)[:, None] * stride_on
        + d.to(tl.int64)[None, :] * stride_od,
        acc.to(out_ptr.dtype.element_ty),
        mask=(n < pixels)[:, None] & (d < channels)[None, :],
    )


def _live(c: Config) -> int:
    return 5 * 64 * c["BLOCK_N"] + 4 * 64 * 64  # at rank 64


def _shared(c: Config, size: int) -> int:
    return c.num_stages * c["BLOCK_D"] * (c["BLOCK_N"] * size + 512) + 256 * (c["BLOCK_N"] + 128)


DEFAULT = config(8, 1, BLOCK_N=16, BLOCK_D=32)
WIDE = Space("nmf2d.backward_wide", (DEFAULT,), _live, _shared)
NARROW = Space(
    "nmf2d.backward",
    (
        DEFAULT,
        config(8, 1, BLOCK_N=32, BLOCK_D=32),
        config(4, 1, BLOCK_N=16, BLOCK_D=32),
        config(8, 1, BLOCK_N=16, BLOCK_D=64),
    ),
    _live,
    _shared,
)


def backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    saved_bases: torch.Tensor,
    saved_coef: torch.Tensor,
    grad: str,
    eps: float,
) -> torch.Tensor:
    """The gradient of x; see `ops.nmf2d.op`."""
    if x.numel() == 0 or saved_bases.numel() == 0:
        return reference.nmf2d_backward(grad_out, x, saved_bases, saved_coef, grad, eps)
    states = saved_bases.contiguous(), saved_coef.contiguous()
    return tuning.tuned(
        space_of(saved_bases.shape[3], NARROW, WIDE),
        size_class(x, str(saved_bases.shape[3]), grad),
        x,
        lambda c: _backward(grad_out, x, *states, grad == "unrolled", eps, c),
    )


def _backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    saved_bases: torch.Tensor,
    saved_coef: torch.Tensor,
    unrolled: bool,
    eps: float,
    chosen: Config,
) -> torch.Tensor:
    b, d, n = x.shape
    levels, r = saved_bases.shape[0], saved_bases.shape[3]
    cut = Cut.of(x, r, chosen)
    gram = saved_bases.new_empty((b, cut.channel_tiles, r, r))
    cross = torch.empty_like(gram)
    grad_num, bases_grad_num = torch.empty_like(saved_coef), torch.empty_like(saved_bases)
    grad_coef, last_coef, grad_bases = (torch.empty_like(s[0]) for s in (saved_coef, saved_coef, saved_bases))
    partial = saved_bases.new_empty((b, cut.chunks, 2, d, r))
    partial_gram = saved_bases.new_empty((b, cut.chunks, 2, r, r))
    grad_x = empty_matrices_like(x)
    shared = {"PRECISION": cut.precision, "RANK": cut.rank}
    channel_grid, top = (b * cut.channel_tiles,), levels - 1
    launch.start(
        gram_kernel, channel_grid, saved_bases[top], gram, d, r, cut.channel_tiles,
        config=config(4, 1, BLOCK_D=cut.channels["BLOCK_D"]), **shared,
    )  # fmt: skip
    for level in range(top, -1, -1):
        # bases_grad_num[level] belongs to the update of the bases from this level to the next
        launch.start(
            pixel_kernel, (b * cut.chunks,),
            x, grad_out, saved_bases[level], bases_grad_num[level], gram, cross, saved_coef[level],
            saved_coef[min(level + 1, top)], last_coef, grad_coef, grad_num[level], partial, partial_gram,
            d, n, r, cut.channel_tiles, cut.chunks, cut.tiles_per_chunk, eps, *x.stride(), *grad_out.stride(),
            config=chosen, TOP=level == top, BOTTOM=level == 0, SOFTMAX=unrolled, GRAM_PARTS=cut.gram_parts, **shared,
        )  # fmt: skip
        if level:
            launch.start(
                channel_kernel, channel_grid, saved_bases[level], saved_bases[level - 1], partial, partial_gram,
                grad_bases, bases_grad_num[level - 1], gram, cross, d, r, cut.chunks, cut.channel_tiles, eps,
                config=cut.channels, TOP=level == top, RANK=cut.rank,
            )  # fmt: skip
    blocks = triton.cdiv(n, chosen["BLOCK_N"]) * triton.cdiv(d, chosen["BLOCK_D"])
    launch.start(
        grad_x_kernel, (b * blocks,), grad_num, saved_bases, saved_coef, bases_grad_num, grad_x,
        b, d, n, r, levels, *grad_x.stride(), config=chosen, **shared,
    )  # fmt: skip
    return grad_x
