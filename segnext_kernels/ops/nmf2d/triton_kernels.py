"""nmf2d in Triton: in 16 bits `triton_split`, in float32 two kernels per step, as few as sums over all pixels allow.

    coef' = coef * Xᵀ B / (coef BᵀB + eps)        one program per chunk of pixels (`coef_kernel`), which then adds
                                                  up its own X coef' and coef'ᵀ coef'
    B'    = B * X coef' / (B coef'ᵀcoef' + eps)   one program per tile of channels (`bases_kernel`): the chunks' sums
                                                  in a fixed order, and the tile's part of B'ᵀB'

The first coef is the softmax of the same product Xᵀ B that its update needs, so it is made there. The last update
writes bases coefᵀ instead of sums. 2 s + 2 launches for s steps, and one to copy the bases in.

A program goes over its chunk's pixels twice: first along the channels for Xᵀ B, then along the pixels for X coef'. In
between, its own rows of coef' are in memory, and a barrier within the program separates the two passes. So both sums
stay in registers, and a chunk may have any length: its partial sums, D R floats, are written once. X comes from L2 the
second time.

Model for an H200, per image of D channels, N pixels, rank R, c chunks: a step is 4 D N R + 4 N R R FLOP; 8 D N bytes of
X, the second half from L2 if a chunk fits, 12 N R of coef, 8 c D R of sums. D 256, N 4096, R 16: 4 MiB of X per pass,
0.07 GFLOP per step: latency is the bound, then L2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels.memory_format import empty_matrices_like
from segnext_kernels.ops.nmf2d import reference, triton_split
from segnext_kernels.ops.nmf2d.triton_backward import backward
from segnext_kernels.ops.nmf2d.triton_products import (
    Cut,
    gram_kernel,
    load_matrix,
    space_of,
    store_matrix,
    sum_parts,
)
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.tuning import Config, Space, config, size_class

__all__ = ["backward", "forward"]


@triton.jit
def coef_kernel(
    x_ptr, bases_ptr, gram_ptr, coef_ptr, new_coef_ptr, partial_ptr, partial_gram_ptr, out_ptr,
    channels, pixels, rank, gram_tiles, chunks, tiles_per_chunk, eps,
    stride_xb, stride_xd, stride_xn, stride_ob, stride_od, stride_on,
    FIRST: tl.constexpr, LAST: tl.constexpr, KEEP: tl.constexpr,
    GRAM_PARTS: tl.constexpr, RANK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0) % chunks
    image = (tl.program_id(0) // chunks).to(tl.int64)
    x_ptr += image * stride_xb
    out_ptr += image * stride_ob
    bases_ptr += image * channels * rank
    coef_ptr += image * pixels * rank
    new_coef_ptr += image * pixels * rank
    r = tl.arange(0, RANK)
    gram = sum_parts(
        gram_ptr + image * gram_tiles * rank * rank, gram_tiles, rank * rank, r, rank, rank, RANK, RANK, GRAM_PARTS
    )  # fmt: skip
    first_tile = chunk * tiles_per_chunk
    last_tile = tl.minimum(first_tile + tiles_per_chunk, tl.cdiv(pixels, BLOCK_N))
    new_gram = tl.zeros((RANK, RANK), tl.float32)
    for tile in range(first_tile, last_tile):
        n = (tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        known = (n < pixels)[:, None] & (r < rank)[None, :]
        num = tl.zeros((BLOCK_N, RANK), tl.float32)
        for start in range(0, channels, BLOCK_D):
            d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
            x = tl.load(
                x_ptr + (n * stride_xn)[:, None] + (d * stride_xd)[None, :],
                mask=(n < pixels)[:, None] & (d < channels)[None, :],
                other=0.0,
            )
            num = tl.dot(x, load_matrix(bases_ptr, d, channels, rank, RANK), num, input_precision="ieee")
        if FIRST:
            logits = tl.where((r < rank)[None, :], num, float("-inf"))
            power = tl.exp(logits - tl.max(logits, 1)[:, None])
            coef = tl.where(known, power / tl.sum(power, 1)[:, None], 0.0)
            if KEEP:
                store_matrix(coef_ptr, coef, n, pixels, rank, RANK)
        else:
            coef = load_matrix(coef_ptr, n, pixels, rank, RANK)
        den = tl.dot(coef, gram, input_precision="ieee") + eps
        # elements outside must not reach the sums, whatever eps is
        coef = tl.where(known, coef * num / den, 0.0)
        if LAST:
            for start in range(0, channels, BLOCK_D):
                d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
                bases = load_matrix(bases_ptr, d, channels, rank, RANK)
                out = tl.dot(coef, tl.trans(bases), input_precision="ieee")
                tl.store(
                    out_ptr + (n * stride_on)[:, None] + (d * stride_od)[None, :],
                    out.to(out_ptr.dtype.element_ty),
                    mask=(n < pixels)[:, None] & (d < channels)[None, :],
                )
        else:
            store_matrix(new_coef_ptr, coef, n, pixels, rank, RANK)
            new_gram += tl.dot(tl.trans(coef), coef, input_precision="ieee")
    if not LAST:
        part = image * chunks + chunk
        store_matrix(partial_gram_ptr + part * rank * rank, new_gram, r, rank, rank, RANK)
        tl.debug_barrier()  # other threads of this program wrote coef' above; it is read below
        for start in range(0, channels, BLOCK_D):
            d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
            acc = tl.zeros((BLOCK_D, RANK), tl.float32)
            for tile in range(first_tile, last_tile):
                n = (tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
                x = tl.load(
                    x_ptr + (d * stride_xd)[:, None] + (n * stride_xn)[None, :],
                    mask=(d < channels)[:, None] & (n < pixels)[None, :],
                    other=0.0,
                )
                acc = tl.dot(x, load_matrix(new_coef_ptr, n, pixels, rank, RANK), acc, input_precision="ieee")
            store_matrix(partial_ptr + part * channels * rank, acc, d, channels, rank, RANK)


@triton.jit
def bases_kernel(
    bases_ptr, new_bases_ptr, partial_ptr, partial_gram_ptr, gram_ptr, channels, rank, chunks, tiles, eps,
    RANK: tl.constexpr,
    BLOCK_D: tl.constexpr, PARTS: tl.constexpr, GRAM_PARTS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) % tiles
    image = (tl.program_id(0) // tiles).to(tl.int64)
    d = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    r = tl.arange(0, RANK)
    area = channels * rank
    bases = load_matrix(bases_ptr + image * area, d, channels, rank, RANK)
    num = sum_parts(
        partial_ptr + image * chunks * area, chunks, area, d, channels, rank, BLOCK_D, RANK, PARTS
    )
    coef_gram = sum_parts(
        partial_gram_ptr + image * chunks * rank * rank, chunks, rank * rank, r, rank, rank, RANK, RANK, GRAM_PARTS
    )  # fmt: skip
    den = tl.dot(bases, coef_gram, input_precision="ieee") + eps
    known = (d < channels)[:, None] & (r < rank)[None, :]
    bases = tl.where(known, bases * num / den, 0.0)
    store_matrix(new_bases_ptr + image * area, bases, d, channels, rank, RANK)
    gram = tl.dot(tl.trans(bases), bases, input_precision="ieee")
    store_matrix(gram_ptr + (image * tiles + tile) * rank * rank, gram, r, rank, rank, RANK)


def _live(c: Config) -> int:
    return 3 * 64 * c["BLOCK_N"] + 2 * 64 * 64  # at rank 64: num, coef, den, and two Gram matrices


def _shared(c: Config, size: int) -> int:
    return c.num_stages * c["BLOCK_D"] * (c["BLOCK_N"] * size + 64 * 4) + 64 * 4 * (c["BLOCK_N"] + 64)


# Above a rank of 32 (SegNeXt-B and -L have 64) every larger tile spills registers, as the compiler reports.
DEFAULT = config(8, 1, BLOCK_N=32, BLOCK_D=32)
WIDE = Space("nmf2d.forward_wide", (DEFAULT,), _live, _shared)
NARROW = Space(
    "nmf2d.forward",
    (
        DEFAULT,
        config(8, 1, BLOCK_N=64, BLOCK_D=32),
        config(4, 1, BLOCK_N=32, BLOCK_D=32),
        config(4, 2, BLOCK_N=64, BLOCK_D=32),
        config(8, 2, BLOCK_N=64, BLOCK_D=64),
        config(8, 2, BLOCK_N=128, BLOCK_D=32),
    ),
    _live,
    _shared,
)


def forward(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `ops.nmf2d.op`."""
    if x.numel() == 0 or bases.numel() == 0:
        return reference.nmf2d(x, bases, steps, grad, eps, save)
    if x.dtype != torch.float32:
        return triton_split.forward(x, bases, steps, eps, save, save and grad == "unrolled")
    r = bases.shape[2]
    return tuning.tuned(
        space_of(r, NARROW, WIDE),
        size_class(x, str(r)),
        x,
        lambda c: _forward(x, bases, steps, grad, eps, save, c),
    )


def _forward(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool, chosen: Config
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    b, d, n = x.shape
    r = bases.shape[2]
    cut = Cut.of(x, r, chosen)
    # All states exist if they are saved, else two alternate. No update may be in place, because the threads that load a
    # tile need not be those that store it.
    every = save and grad == "unrolled"
    states = steps + 1 if every else min(steps, 1) + 1
    bases_states = x.new_empty((states, b, d, r), dtype=torch.float32)
    coef_states = x.new_empty((states, b, n, r), dtype=torch.float32)
    gram = x.new_empty((b, cut.channel_tiles, r, r), dtype=torch.float32)
    partial = x.new_empty((b, cut.chunks, d, r), dtype=torch.float32)
    partial_gram = x.new_empty((b, cut.chunks, r, r), dtype=torch.float32)
    out = empty_matrices_like(x)
    bases_states[0].copy_(bases)
    channel_grid = (b * cut.channel_tiles,)
    launch.start(
        gram_kernel, channel_grid, bases_states[0], gram, d, r, cut.channel_tiles,
        config=config(4, 1, BLOCK_D=cut.channels["BLOCK_D"]), RANK=cut.rank, PRECISION=cut.precision,
    )  # fmt: skip
    for step in range(steps + 1):
        last = step == steps
        at, to = step % states, min(step + 1, steps) % states  # the last update writes no state
        launch.start(
            coef_kernel, (b * cut.chunks,),
            x, bases_states[at], gram, coef_states[at], coef_states[to], partial, partial_gram, out,
            d, n, r, cut.channel_tiles, cut.chunks, cut.tiles_per_chunk, eps, *x.stride(), *out.stride(),
            config=chosen, FIRST=step == 0, LAST=last, KEEP=save and (every or last),
            GRAM_PARTS=cut.gram_parts, RANK=cut.rank,
        )  # fmt: skip
        if not last:
            launch.start(
                bases_kernel, channel_grid, bases_states[at], bases_states[to], partial, partial_gram, gram,
                d, r, cut.chunks, cut.channel_tiles, eps,
                config=cut.channels, RANK=cut.rank,
            )  # fmt: skip
    if save:
        kept = slice(None) if every else slice(steps % states, steps % states + 1)
        return out, bases_states[kept], coef_states[kept]
    return out, bases_states.new_empty((0, b, d, r)), coef_states.new_empty((0, b, n, r))
