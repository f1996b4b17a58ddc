"""Shared by nmf2d's Triton kernels: products of data with state, sums of parts, and how pixels are divided.

For float32 X, and for the backward. The state (bases, coef, their Gram matrices and gradients) is float32 throughout.
In the backward, bfloat16 data meets it on the tensor cores in two products, of the state's leading eight bits and of
the next eight. float16 has too small a range for gradients of the state, so float16 data uses three TF32 products that
together keep float32's digits ("tf32x3"); so does the product that makes the gradient of 16-bit X. The rest are plain
float32 products ("ieee"). None has TF32's error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from segnext_kernels.triton.pointwise import MULTIPROCESSORS
from segnext_kernels.triton.tuning import Config, Space, config

PART_VALUES = 4096  # elements of a sum's parts that are loaded at once: 32 per thread of 128 threads


@triton.jit
def data_product(data, state, acc, PRECISION: tl.constexpr):
    """acc + data · state, data in its own dtype."""
    if data.dtype == tl.bfloat16:
        high = state.to(tl.bfloat16)
        low = (state - high.to(tl.float32)).to(tl.bfloat16)
        acc = tl.dot(data, high, acc)
        acc = tl.dot(data, low, acc)
    else:
        acc = tl.dot(data.to(tl.float32), state, acc, input_precision=PRECISION)
    return acc


@triton.jit
def sum_parts(
    ptr, parts, stride, rows, row_count, rank, ROWS: tl.constexpr, RANK: tl.constexpr, PARTS: tl.constexpr
):
    """(ROWS, RANK): the sum of ``parts`` matrices of ``rank`` columns, always in the same order; zero outside."""
    r = tl.arange(0, RANK)
    inside = (rows < row_count)[:, None] & (r < rank)[None, :]
    at = rows.to(tl.int64)[:, None] * rank + r[None, :]
    acc = tl.zeros((ROWS, RANK), tl.float32)
    for start in range(0, parts, PARTS):
        part = (start + tl.arange(0, PARTS)).to(tl.int64)
        values = tl.load(
            ptr + (part * stride)[:, None, None] + at[None, :, :],
            mask=(part < parts)[:, None, None] & inside[None, :, :],
            other=0.0,
        )
        acc += tl.sum(values, 0)
    return acc


@triton.jit
def load_matrix(ptr, rows, row_count, rank, RANK: tl.constexpr):
    """(rows, RANK) of a dense float32 matrix of ``rank`` columns; zero outside."""
    r = tl.arange(0, RANK)
    mask = (rows < row_count)[:, None] & (r < rank)[None, :]
    return tl.load(ptr + rows.to(tl.int64)[:, None] * rank + r[None, :], mask=mask, other=0.0)


@triton.jit
def store_matrix(ptr, value, rows, row_count, rank, RANK: tl.constexpr):
    """The counterpart of `load_matrix`."""
    r = tl.arange(0, RANK)
    mask = (rows < row_count)[:, None] & (r < rank)[None, :]
    tl.store(ptr + rows.to(tl.int64)[:, None] * rank + r[None, :], value, mask=mask)


@triton.jit
def gram_kernel(
    bases_ptr, gram_ptr, channels, rank, tiles, BLOCK_D: tl.constexpr, RANK: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Store each tile of channels' part of basesᵀ bases."""
    tile = tl.program_id(0) % tiles
    image = (tl.program_id(0) // tiles).to(tl.int64)
    d = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    bases = load_matrix(bases_ptr + image * channels * rank, d, channels, rank, RANK)
    gram = tl.dot(tl.trans(bases), bases, input_precision=PRECISION)
    r = tl.arange(0, RANK)
    store_matrix(gram_ptr + (image * tiles + tile) * rank * rank, gram, r, rank, rank, RANK)


def space_of(rank: int, narrow: Space, wide: Space) -> Space:
    """A rank's space: two Gram matrices of 64 x 64 leave registers only for the smallest tile."""
    return wide if rank > 32 else narrow


@dataclass(frozen=True)
class Cut:
    """How an image's pixels and channels are divided among programs.

    Attributes:
        rank: R rounded up to a tile's side.
        precision: of float32 products.
        pixels: the configuration of kernels over pixels.
        channels: the configuration of kernels over channels.
        chunks: programs over the pixels of an image, each with ``tiles_per_chunk`` tiles. At most one per
            multiprocessor for all images together, because each writes sums as large as the bases.
        channel_tiles: programs over the channels of an image.
    """

    rank: int
    precision: str
    pixels: Config
    channels: Config
    chunks: int
    tiles_per_chunk: int
    channel_tiles: int

    @staticmethod
    def of(x: torch.Tensor, rank: int, chosen: Config) -> Cut:
        """For x (B, D, N)."""
        b, d, n = x.shape
        wide = max(16, triton.next_power_of_2(rank))
        tiles = triton.cdiv(n, chosen["BLOCK_N"])
        tiles_per_chunk = triton.cdiv(tiles, max(1, MULTIPROCESSORS // b))
        channels = config(
            4 if wide < 64 else 8,
            1,
            BLOCK_D=16,
            PARTS=max(1, PART_VALUES // (16 * wide)),
            GRAM_PARTS=max(1, PART_VALUES // wide**2),
        )
        precision = "ieee" if x.dtype == torch.float32 else "tf32x3"
        chunks = triton.cdiv(tiles, tiles_per_chunk)
        return Cut(wide, precision, chosen, channels, chunks, tiles_per_chunk, triton.cdiv(d, 16))

    @property
    def gram_parts(self) -> int:
        """Number of partial (R, R) matrices loaded at once."""
        return self.channels["GRAM_PARTS"]
