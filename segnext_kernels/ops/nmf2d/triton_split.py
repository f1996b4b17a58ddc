"""nmf2d in Triton for float16 and bfloat16, all products on tensor cores: four kernels per step.

    coef' = coef * Xᵀ B / (coef G + eps)     `coef_kernel`: one program per tile of pixels, which also makes its part of
                                             H = coef'ᵀ coef'
    S     = X coef'                          `shares_kernel`: one program per tile of channels and slab of pixels; more
                                             programs add up H
    B'    = B * S / (B H + eps)              `bases_kernel`: 16 channels per program, which adds up the slabs' shares
                                             and makes its part of G = B'ᵀ B'
    G                                        `gram_kernel`: adds up the parts

The first coef is the softmax of the same product Xᵀ B that its update needs, so it is made there. The last update
writes coef' Fᵀ instead of coef', with the factors F = B, or projection · B (`project_kernel`) for a convolution behind
the op: D P R multiply-adds instead of D P N. No kernel adds atomically, and every sum has a fixed order.

Products take state as the sum of two bfloat16, high + low, which is float32 to 2^-17: bfloat16 X meets it in two
products, and float16 X (which is such a sum itself) and state in three; the product of two low parts is left out. A
state is written as two planes, so that the large products load operands that need no conversion: both loops over X copy
tiles asynchronously to shared memory and multiply them there. Planes have R rounded up to a power of two, with zeros
behind the rank. Bases are written in float32 too; coef, which is larger, only where the backward needs it.

The first two kernels have the same tile, ROWS x DEPTH of X: pixels x channels and channels x pixels. `shares_kernel`
goes over images and slabs in the opposite order, so that it begins with the part of X that is still in L2.

Model for an H200, per image and step, D channels, N pixels, rank R, bfloat16: 8 D N R FLOP on tensor cores (float16:
12) and 12 N R R for state; bytes through L2: 4 D N of X, 4 D R per tile of pixels, 4 N R per tile of channels and 8 N R
more of coef, 8 S D R of the shares of S slabs. The issue model, whole calls with a projection, 7 steps, bf16, D 512,
R 64: N 4096 66 us, N 18432 163 us, N 32768 249 us; N 4096, 32 images 1.1 ms. L2 and shared memory bind. Not in it: 32
launches, 38 us in a graph, and the latency of kernels that last 2 to 5 us at N 4096.

Measured on an H200 (bench/results/h200), with a projection: N 4096 236 us, the CUDA kernel 375. Of it `bases_kernel` is
102 us, 13 per launch: its 32 programs add up the slabs' shares one after the other.

Versions tried: one kernel for both products, a program per chunk of pixels with float32 state that is split in the loop
(`triton_kernels`, which float32 keeps): 11.3 ms for 32 images of D 512, N 4096, measured on an H200. Parts of both Gram
matrices summed by every program that needs them: 256 KB per program, as much as its part of X. coef in float32 between
steps: 8 N R bytes more per step, and 170 registers per thread without a limit.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl

from segnext_kernels.memory_format import empty_matrices_like
from segnext_kernels.ops.nmf2d.triton_products import store_matrix, sum_parts
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.pointwise import MULTIPROCESSORS
from segnext_kernels.triton.tuning import Config, Space, config, size_class

GRAM_VALUES = 256  # elements of a Gram matrix per program that adds up its parts


@triton.jit
def split(value):
    """float32 as the sum of two bfloat16; what is not finite goes to the first one."""
    high = value.to(tl.bfloat16)
    rest = value - high.to(tl.float32)
    return high, tl.where(tl.abs(rest) < float("inf"), rest, 0.0).to(tl.bfloat16)  # inf - inf would be NaN


@triton.jit
def state_product(a_high, a_low, b_high, b_low, acc):
    """acc + a · b without the product of the low parts."""
    acc = tl.dot(a_low, b_high, acc)
    acc = tl.dot(a_high, b_low, acc)
    return tl.dot(a_high, b_high, acc)


@triton.jit
def data_product(data, high, low, acc):
    """acc + data · state, data in its own dtype."""
    if data.dtype == tl.bfloat16:
        acc = tl.dot(data, low, acc)
        acc = tl.dot(data, high, acc)
    else:
        data_high, data_low = split(data.to(tl.float32))
        acc = state_product(data_high, data_low, high, low, acc)
    return acc


@triton.jit
def load_planes(ptr, rows, row_count, RANK: tl.constexpr):
    """High and low of rows (int64) of a state; zero outside."""
    r = tl.arange(0, RANK)
    mask = (rows < row_count)[:, None]
    high = tl.load(ptr + rows[:, None] * RANK + r[None, :], mask=mask, other=0.0)
    low = tl.load(ptr + (rows + row_count)[:, None] * RANK + r[None, :], mask=mask, other=0.0)
    return high, low


@triton.jit
def store_planes(ptr, high, low, rows, row_count, RANK: tl.constexpr):
    """The counterpart of `load_planes`."""
    r = tl.arange(0, RANK)
    mask = (rows < row_count)[:, None]
    tl.store(ptr + rows[:, None] * RANK + r[None, :], high, mask=mask)
    tl.store(ptr + (rows + row_count)[:, None] * RANK + r[None, :], low, mask=mask)


@triton.jit
def store_gram(ptr, high, low, RANK: tl.constexpr):
    """Store stateᵀ state of a tile's rows, a part of a Gram matrix, in float32."""
    gram = state_product(tl.trans(high), tl.trans(low), high, low, tl.zeros((RANK, RANK), tl.float32))
    r = tl.arange(0, RANK)
    tl.store(ptr + r[:, None] * RANK + r[None, :], gram)


@triton.jit
def sum_gram(
    partial_ptr, gram_ptr, parts, block, RANK: tl.constexpr, VALUES: tl.constexpr, PARTS: tl.constexpr
):
    """Store a block of the sum of ``parts`` Gram matrices, always in the same order, as planes."""
    at = block * VALUES + tl.arange(0, VALUES)
    acc = tl.zeros((VALUES,), tl.float32)
    for start in range(0, parts, PARTS):
        part = (start + tl.arange(0, PARTS)).to(tl.int64)
        values = tl.load(
            partial_ptr + (part * (RANK * RANK))[:, None] + at[None, :],
            mask=(part < parts)[:, None],
            other=0.0,
        )
        acc += tl.sum(values, 0)
    high, low = split(acc)
    tl.store(gram_ptr + at, high)
    tl.store(gram_ptr + RANK * RANK + at, low)


@triton.jit
def coef_kernel(
    x_ptr, bases_ptr, gram_ptr, planes_ptr, new_planes_ptr, coef_ptr, new_coef_ptr, partial_gram_ptr, factors_ptr,
    out_ptr,
    channels, pixels, rank, out_channels, tiles, eps,
    stride_xb, stride_xd, stride_xn, stride_ob, stride_od, stride_on,
    FIRST: tl.constexpr, LAST: tl.constexpr, KEEP: tl.constexpr, KEEP_NEW: tl.constexpr,
    RANK: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) % tiles
    image = (tl.program_id(0) // tiles).to(tl.int64)
    bases_ptr += image * 2 * channels * RANK
    planes_ptr += image * 2 * pixels * RANK
    r = tl.arange(0, RANK)
    n = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    known = (n < pixels)[:, None] & (r < rank)[None, :]
    x_rows = x_ptr + image * stride_xb + (n * stride_xn)[:, None]
    num = tl.zeros((ROWS, RANK), tl.float32)
    for start in range(0, channels, DEPTH):
        d = (start + tl.arange(0, DEPTH)).to(tl.int64)
        x = tl.load(
            x_rows + (d * stride_xd)[None, :], mask=(n < pixels)[:, None] & (d < channels)[None, :], other=0.0
        )
        high, low = load_planes(bases_ptr, d, channels, RANK)
        num = data_product(x, high, low, num)
    if FIRST:
        logits = tl.where((r < rank)[None, :], num, float("-inf"))
        power = tl.exp(logits - tl.max(logits, 1)[:, None])
        coef = power / tl.sum(power, 1)[:, None]
        coef_high, coef_low = split(coef)
        if KEEP:
            store_matrix(coef_ptr + image * pixels * rank, coef, n, pixels, rank, RANK)
    else:
        coef_high, coef_low = load_planes(planes_ptr, n, pixels, RANK)
        coef = coef_high.to(tl.float32) + coef_low.to(tl.float32)
    gram_high, gram_low = load_planes(gram_ptr + image * 2 * RANK * RANK, r.to(tl.int64), RANK, RANK)
    den = state_product(coef_high, coef_low, gram_high, gram_low, tl.zeros((ROWS, RANK), tl.float32)) + eps
    # elements outside must not reach the sums, whatever eps is
    coef = tl.where(known, coef * num / den, 0.0)
    high, low = split(coef)
    if LAST:
        factors_ptr += image * 2 * out_channels * RANK
        out_rows = out_ptr + image * stride_ob + (n * stride_on)[:, None]
        for start in range(0, out_channels, DEPTH):
            d = (start + tl.arange(0, DEPTH)).to(tl.int64)
            factors_high, factors_low = load_planes(factors_ptr, d, out_channels, RANK)
            out = state_product(
                high, low, tl.trans(factors_high), tl.trans(factors_low), tl.zeros((ROWS, DEPTH), tl.float32)
            )
            tl.store(
                out_rows + (d * stride_od)[None, :],
                out.to(out_ptr.dtype.element_ty),
                mask=(n < pixels)[:, None] & (d < out_channels)[None, :],
            )
    else:
        if KEEP_NEW:
            store_matrix(new_coef_ptr + image * pixels * rank, coef, n, pixels, rank, RANK)
        store_planes(new_planes_ptr + image * 2 * pixels * RANK, high, low, n, pixels, RANK)
        store_gram(partial_gram_ptr + (image * tiles + tile) * RANK * RANK, high, low, RANK)


@triton.jit
def shares_kernel(
    x_ptr, planes_ptr, partial_ptr, partial_gram_ptr, gram_ptr,
    channels, pixels, channel_tiles, slabs, tiles_per_slab, gram_parts,
    stride_xb, stride_xd, stride_xn,
    VALUES: tl.constexpr, PARTS: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    shares = channel_tiles * slabs
    programs = shares + RANK * RANK // VALUES
    backwards = tl.num_programs(0) - 1 - tl.program_id(0)
    program = backwards % programs
    image = (backwards // programs).to(tl.int64)
    if program < shares:
        slab = program // channel_tiles
        d = (program % channel_tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        planes_ptr += image * 2 * pixels * RANK
        x_columns = x_ptr + image * stride_xb + (d * stride_xd)[None, :]
        first_tile = slab * tiles_per_slab
        last_tile = tl.minimum(first_tile + tiles_per_slab, tl.cdiv(pixels, DEPTH))
        acc = tl.zeros((ROWS, RANK), tl.float32)
        for tile in range(first_tile, last_tile):
            n = (tile * DEPTH + tl.arange(0, DEPTH)).to(tl.int64)
            x = tl.load(
                x_columns + (n * stride_xn)[:, None],
                mask=(n < pixels)[:, None] & (d < channels)[None, :],
                other=0.0,
            )
            high, low = load_planes(planes_ptr, n, pixels, RANK)
            acc = data_product(tl.trans(x), high, low, acc)
        store_matrix(partial_ptr + (image * slabs + slab) * channels * RANK, acc, d, channels, RANK, RANK)
    else:
        square = RANK * RANK
        sum_gram(
            partial_gram_ptr + image * gram_parts * square, gram_ptr + image * 2 * square, gram_parts,
            program - shares, RANK, VALUES, PARTS,
        )  # fmt: skip


@triton.jit
def bases_kernel(
    bases_ptr, new_bases_ptr, planes_ptr, partial_ptr, coef_gram_ptr, partial_gram_ptr,
    channels, rank, slabs, tiles, eps, stride_b, stride_d, stride_r,
    UPDATE: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """The update, or without UPDATE a copy of the given bases; planes and Gram matrix of the result."""
    tile = tl.program_id(0) % tiles
    image = (tl.program_id(0) // tiles).to(tl.int64)
    d = (tile * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    r = tl.arange(0, RANK)
    known = (d < channels)[:, None] & (r < rank)[None, :]
    bases = tl.load(
        bases_ptr + image * stride_b + (d * stride_d)[:, None] + (r.to(tl.int64) * stride_r)[None, :],
        mask=known,
        other=0.0,
    ).to(tl.float32)
    high, low = split(bases)
    if UPDATE:
        area = channels * RANK
        num = sum_parts(
            partial_ptr + image * slabs * area, slabs, area, d, channels, RANK, BLOCK_D, RANK, PARTS
        )
        gram_high, gram_low = load_planes(coef_gram_ptr + image * 2 * RANK * RANK, r.to(tl.int64), RANK, RANK)
        den = state_product(high, low, gram_high, gram_low, tl.zeros((BLOCK_D, RANK), tl.float32)) + eps
        bases = tl.where(known, bases * num / den, 0.0)
        high, low = split(bases)
    store_matrix(new_bases_ptr + image * channels * rank, bases, d, channels, rank, RANK)
    store_planes(planes_ptr + image * 2 * channels * RANK, high, low, d, channels, RANK)
    store_gram(partial_gram_ptr + (image * tiles + tile) * RANK * RANK, high, low, RANK)


@triton.jit
def gram_kernel(
    partial_gram_ptr, gram_ptr, parts, VALUES: tl.constexpr, PARTS: tl.constexpr, RANK: tl.constexpr
):
    square = RANK * RANK
    blocks = square // VALUES
    image = (tl.program_id(0) // blocks).to(tl.int64)
    sum_gram(
        partial_gram_ptr + image * parts * square, gram_ptr + image * 2 * square, parts,
        tl.program_id(0) % blocks, RANK, VALUES, PARTS,
    )  # fmt: skip


@triton.jit
def project_kernel(
    projection_ptr, bases_ptr, factors_ptr, channels, out_channels, tiles, stride_p, stride_d,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """factors = projection · bases, as planes."""
    tile = tl.program_id(0) % tiles
    image = (tl.program_id(0) // tiles).to(tl.int64)
    p = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    bases_ptr += image * 2 * channels * RANK
    acc = tl.zeros((BLOCK_P, RANK), tl.float32)
    for start in range(0, channels, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
        weight = tl.load(
            projection_ptr + (p * stride_p)[:, None] + (d * stride_d)[None, :],
            mask=(p < out_channels)[:, None] & (d < channels)[None, :],
            other=0.0,
        )
        high, low = load_planes(bases_ptr, d, channels, RANK)
        acc = data_product(weight, high, low, acc)
    high, low = split(acc)
    store_planes(factors_ptr + image * 2 * out_channels * RANK, high, low, p, out_channels, RANK)


def _live(c: Config) -> int:
    return 3 * 64 * c["ROWS"]  # at rank 64: num, coef, den


def _shared(c: Config, size: int) -> int:
    return c.num_stages * c["DEPTH"] * (c["ROWS"] * size + 64 * 4)


# Where tiles of 128 pixels are fewer than multiprocessors, tiles of 64 occupy more of them, and longer pipelines hide
# the latency of a program that is alone on its multiprocessor. Else two programs share a multiprocessor, which takes
# 128 registers per thread (160 without a limit), so that one multiplies while the other loads or stores.
FEW = Space(
    "nmf2d.forward_split_few",
    (
        config(4, 4, ROWS=64, DEPTH=64),
        config(4, 3, ROWS=64, DEPTH=64),
        config(8, 4, ROWS=128, DEPTH=64),
    ),
    _live,
    _shared,
)
MANY = Space(
    "nmf2d.forward_split",
    (
        config(8, 3, max_registers=128, ROWS=128, DEPTH=64),
        config(8, 4, ROWS=128, DEPTH=64),
        config(4, 3, ROWS=64, DEPTH=64),
        config(8, 3, ROWS=128, DEPTH=64),
    ),
    _live,
    _shared,
)
# What a program adds up at once, 16 channels' shares of 16 slabs or 256 elements of 32 Gram matrices, is 64 values per
# thread.
BASES = config(8, 1, BLOCK_D=16, PARTS=16)
GRAM = config(4, 1, VALUES=GRAM_VALUES, PARTS=32)
PROJECT = config(4, 3, BLOCK_P=32, BLOCK_D=64)


def forward(
    x: torch.Tensor,
    bases: torch.Tensor,
    steps: int,
    eps: float,
    save: bool = False,
    every: bool = False,
    projection: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The op nmf2d on float16 or bfloat16 without empty axes.

    Args:
        x, bases, steps, eps: see `ops.nmf2d.op`.
        save: return the last bases and coef before an update, (1, B, D, R) and (1, B, N, R), else none of them.
        every: return those before each update.
        projection: (P, D); the result is projection · bases coefᵀ, (B, P, N).
    """
    b, _, n = x.shape
    space = FEW if b * triton.cdiv(n, 128) < MULTIPROCESSORS else MANY
    return tuning.tuned(
        space,
        size_class(x, str(bases.shape[2])),
        x,
        lambda c: _forward(x, bases, steps, eps, save, every, projection, c),
    )


def _forward(
    x: torch.Tensor,
    bases: torch.Tensor,
    steps: int,
    eps: float,
    save: bool,
    every: bool,
    projection: torch.Tensor | None,
    chosen: Config,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    b, d, n = x.shape
    r, p = bases.shape[2], d if projection is None else projection.shape[0]
    rank = max(16, triton.next_power_of_2(r))
    pixel_tiles, channel_tiles = triton.cdiv(n, chosen["ROWS"]), triton.cdiv(d, chosen["ROWS"])
    # one program per multiprocessor: each slab's shares are as large as the bases
    depth_tiles = triton.cdiv(n, chosen["DEPTH"])
    tiles_per_slab = triton.cdiv(depth_tiles, max(1, MULTIPROCESSORS // (b * channel_tiles)))
    slabs = triton.cdiv(depth_tiles, tiles_per_slab)
    bases_tiles = triton.cdiv(d, BASES["BLOCK_D"])
    gram_blocks = rank * rank // GRAM_VALUES
    # All states exist if they are saved, else two alternate. No update may be in place, because the threads that load a
    # tile need not be those that store it.
    states = steps + 1 if every else min(steps, 1) + 1
    bases_states = x.new_empty((states, b, d, r), dtype=torch.float32)
    coef_states = x.new_empty((states if every else int(save), b, n, r), dtype=torch.float32)
    bases_planes, coef_planes, new_coef_planes, gram, coef_gram = (
        x.new_empty((b, 2, rows, rank), dtype=torch.bfloat16) for rows in (d, n, n, rank, rank)
    )
    partial = x.new_empty((b, slabs, d, rank), dtype=torch.float32)
    partial_gram = x.new_empty((b, bases_tiles, rank, rank), dtype=torch.float32)
    partial_coef_gram = x.new_empty((b, pixel_tiles, rank, rank), dtype=torch.float32)
    out = empty_matrices_like(x, p)

    def update_bases(old: torch.Tensor, new: torch.Tensor, update: bool) -> None:
        launch.start(
            bases_kernel, (b * bases_tiles,),
            old, new, bases_planes, partial, coef_gram, partial_gram,
            d, r, slabs, bases_tiles, eps, *old.stride(), config=BASES, UPDATE=update, RANK=rank,
        )  # fmt: skip
        launch.start(gram_kernel, (b * gram_blocks,), partial_gram, gram, bases_tiles, config=GRAM, RANK=rank)

    update_bases(bases.expand(b, -1, -1), bases_states[0], False)
    factors = bases_planes
    for step in range(steps + 1):
        last = step == steps
        at, to = step % states, min(step + 1, steps) % states  # the last update writes no state
        coef_at, coef_to = (coef_states[i if every else 0] if save else None for i in (at, to))
        keep, keep_new = save and (every or last), save and (every or step == steps - 1)
        if last and projection is not None:
            factors = x.new_empty((b, 2, p, rank), dtype=torch.bfloat16)
            projected_tiles = triton.cdiv(p, PROJECT["BLOCK_P"])
            launch.start(
                project_kernel, (b * projected_tiles,), projection, bases_planes, factors,
                d, p, projected_tiles, *projection.stride(), config=PROJECT, RANK=rank,
            )  # fmt: skip
        launch.start(
            coef_kernel, (b * pixel_tiles,),
            x, bases_planes, gram, coef_planes, new_coef_planes, coef_at, coef_to, partial_coef_gram, factors, out,
            d, n, r, p, pixel_tiles, eps, *x.stride(), *out.stride(),
            # a softmax that is stored does not fit the limit
            config=replace(chosen, max_registers=0) if step == 0 and keep else chosen,
            FIRST=step == 0, LAST=last, KEEP=keep, KEEP_NEW=keep_new, RANK=rank,
        )  # fmt: skip
        coef_planes, new_coef_planes = new_coef_planes, coef_planes
        if not last:
            launch.start(
                shares_kernel, (b * (channel_tiles * slabs + gram_blocks),),
                x, coef_planes, partial, partial_coef_gram, coef_gram,
                d, n, channel_tiles, slabs, tiles_per_slab, pixel_tiles, *x.stride(),
                config=chosen, VALUES=GRAM_VALUES, PARTS=GRAM["PARTS"], RANK=rank,
            )  # fmt: skip
            update_bases(bases_states[at], bases_states[to], True)
    kept = slice(None) if every else slice(steps % states, steps % states + int(save))
    return out, bases_states[kept], coef_states
