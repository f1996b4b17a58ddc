"""msca_conv in one Triton launch, for inference: a = dwKxK(u); a + sum over strips of dwKx1(dw1xK(a)).

Tiling: a program has a band of ROWS whole rows x BLOCK_C channels of one image. It makes a for its band and for as many
rows above and below as the longest strip reaches, then the row convolutions of these, then the columns and the sum of
its own rows. Each program keeps a and the row convolutions in its own scratch memory, which L2 holds; a barrier within
the program separates the three phases. Rows outside the image are not made: the columns' masks give zeros there,
because each convolution pads its own input. The op `msca_conv` uses three launches and recomputes nothing. A deployed
block has a budget of five launches, so here the halo is recomputed to save two.

ROWS: the tallest band that still gives each multiprocessor a program, at least 8.

Model for an H200, E elements of e bytes, strips 7, 11, 21, b = min(H, ROWS + 20) / ROWS: (128 b + 78) E FLOP (206 E if
b is 1), 2 e E bytes of memory and 12 b e E of L2. Loads from L1 are the bound, 64 b + 40 per element.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from segnext_kernels import backend, memory_format
from segnext_kernels.ops.msca_conv.strips import MOST_TRITON_STRIPS
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.pointwise import MULTIPROCESSORS
from segnext_kernels.triton.tuning import Config, Space, config, size_class

BANDS = (64, 32, 16, 8)  # rows


@triton.jit
def _vector(ptr, c, channels, stride):
    """One value per channel, as a row; ``ptr`` already points at the tap."""
    return tl.load(ptr + c * stride, mask=c < channels, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _along(
    total, from_ptr, weight_ptr, bias_ptr, p, position, low, high, step, known, c, channels,
    stride_wc, stride_wk, stride_b, K: tl.constexpr, BIAS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``total`` plus the convolution of a scratch image along an axis, on which pixels p are at ``position``.

    The image ends at ``low`` and ``high``; neighbours are ``step`` pixels apart. The loop is not unrolled, because the
    compiler would then hold every tap in registers.
    """
    lane = tl.arange(0, BLOCK_C)
    if BIAS:
        total += _vector(bias_ptr, c, channels, stride_b)
    for j in range(K):
        shift = j - K // 2
        inside = (position + shift >= low) & (position + shift < high)
        at = from_ptr + (p + shift * step)[:, None] * BLOCK_C + lane[None, :]
        value = tl.load(at, mask=inside[:, None] & known, other=0.0).to(tl.float32)
        total += value * _vector(weight_ptr + j * stride_wk, c, channels, stride_wc)
    return total


@triton.jit
def strips_kernel(
    u_ptr, scratch_ptr, out_ptr, root_ptr, root_bias_ptr,
    row0_ptr, row1_ptr, row2_ptr, column0_ptr, column1_ptr, column2_ptr,
    row0_bias_ptr, row1_bias_ptr, row2_bias_ptr, column0_bias_ptr, column1_bias_ptr, column2_bias_ptr,
    height, width, channels, scratch_rows,
    stride_un, stride_uc, stride_uh, stride_uw, stride_on, stride_oc, stride_oh, stride_ow,
    stride_root_c, stride_root_h, stride_root_w, stride_root_b,
    stride_row0_c, stride_row0_k, stride_row1_c, stride_row1_k, stride_row2_c, stride_row2_k,
    stride_column0_c, stride_column0_k, stride_column1_c, stride_column1_k, stride_column2_c, stride_column2_k,
    stride_row0_b, stride_row1_b, stride_row2_b, stride_column0_b, stride_column1_b, stride_column2_b,
    ROOT: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, LONGEST: tl.constexpr,
    ROOT_BIAS: tl.constexpr, ROW_BIAS: tl.constexpr, COLUMN_BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    bands, blocks = tl.cdiv(height, ROWS), tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    block = program % blocks
    first = (program // blocks) % bands * ROWS
    image = (program // blocks // bands).to(tl.int64)
    last = tl.minimum(first + ROWS, height)
    low = tl.maximum(first - LONGEST // 2, 0)
    high = tl.minimum(last + LONGEST // 2, height)
    lane = tl.arange(0, BLOCK_C)
    c = (block * BLOCK_C + lane).to(tl.int64)
    u_ptr += image * stride_un
    out_ptr += image * stride_on
    one = scratch_rows * width * BLOCK_C  # one scratch image
    a_ptr = scratch_ptr + program.to(tl.int64) * (1 + (K0 > 0) + (K1 > 0) + (K2 > 0)) * one

    for start in range(0, (high - low) * width, BLOCK_P):
        p = (start + tl.arange(0, BLOCK_P)).to(tl.int64)
        row, w = low + p // width, p % width
        known = (row < high)[:, None] & (c < channels)[None, :]
        total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        if ROOT_BIAS:
            total += _vector(root_bias_ptr, c, channels, stride_root_b)
        for tap in range(ROOT * ROOT):
            from_row, from_w = row + (tap // ROOT - ROOT // 2), w + (tap % ROOT - ROOT // 2)
            inside = (from_row >= 0) & (from_row < height) & (from_w >= 0) & (from_w < width)
            at = u_ptr + (from_row * stride_uh + from_w * stride_uw)[:, None] + (c * stride_uc)[None, :]
            value = tl.load(at, mask=inside[:, None] & known, other=0.0).to(tl.float32)
            at_tap = root_ptr + (tap // ROOT) * stride_root_h + (tap % ROOT) * stride_root_w
            total += value * _vector(at_tap, c, channels, stride_root_c)
        at = a_ptr + p[:, None] * BLOCK_C + lane[None, :]
        tl.store(at, total.to(a_ptr.dtype.element_ty), mask=known)
    tl.debug_barrier()  # other threads of this program wrote a; it is read below
    if K0 > 0:
        for start in range(0, (high - low) * width, BLOCK_P):
            p = (start + tl.arange(0, BLOCK_P)).to(tl.int64)
            row, w = low + p // width, p % width
            known = (row < high)[:, None] & (c < channels)[None, :]
            zero = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
            at = a_ptr + p[:, None] * BLOCK_C + lane[None, :]
            total = _along(
                zero, a_ptr, row0_ptr, row0_bias_ptr, p, w, 0, width, 1, known, c, channels,
                stride_row0_c, stride_row0_k, stride_row0_b, K0, ROW_BIAS, BLOCK_C,
            )  # fmt: skip
            tl.store(at + one, total.to(a_ptr.dtype.element_ty), mask=known)
            if K1 > 0:
                total = _along(
                    zero, a_ptr, row1_ptr, row1_bias_ptr, p, w, 0, width, 1, known, c, channels,
                    stride_row1_c, stride_row1_k, stride_row1_b, K1, ROW_BIAS, BLOCK_C,
                )  # fmt: skip
                tl.store(at + 2 * one, total.to(a_ptr.dtype.element_ty), mask=known)
            if K2 > 0:
                total = _along(
                    zero, a_ptr, row2_ptr, row2_bias_ptr, p, w, 0, width, 1, known, c, channels,
                    stride_row2_c, stride_row2_k, stride_row2_b, K2, ROW_BIAS, BLOCK_C,
                )  # fmt: skip
                tl.store(at + 3 * one, total.to(a_ptr.dtype.element_ty), mask=known)
        tl.debug_barrier()  # the same for the row convolutions
    for start in range((first - low) * width, (last - low) * width, BLOCK_P):
        p = (start + tl.arange(0, BLOCK_P)).to(tl.int64)
        row, w = low + p // width, p % width
        known = (row < last)[:, None] & (c < channels)[None, :]
        at = a_ptr + p[:, None] * BLOCK_C + lane[None, :]
        total = tl.load(at, mask=known, other=0.0).to(tl.float32)
        if K0 > 0:
            total = _along(
                total, a_ptr + 1 * one, column0_ptr, column0_bias_ptr, p, row, low, high, width, known,
                c, channels, stride_column0_c, stride_column0_k, stride_column0_b, K0, COLUMN_BIAS, BLOCK_C,
            )  # fmt: skip
        if K1 > 0:
            total = _along(
                total, a_ptr + 2 * one, column1_ptr, column1_bias_ptr, p, row, low, high, width, known,
                c, channels, stride_column1_c, stride_column1_k, stride_column1_b, K1, COLUMN_BIAS, BLOCK_C,
            )  # fmt: skip
        if K2 > 0:
            total = _along(
                total, a_ptr + 3 * one, column2_ptr, column2_bias_ptr, p, row, low, high, width, known,
                c, channels, stride_column2_c, stride_column2_k, stride_column2_b, K2, COLUMN_BIAS, BLOCK_C,
            )  # fmt: skip
        out = out_ptr + (row * stride_oh + w * stride_ow)[:, None] + (c * stride_oc)[None, :]
        tl.store(out, total.to(out_ptr.dtype.element_ty), mask=known)


# 32 channels of 16 bits are a 64-byte sector pair; eight values per thread, so that a tap's load serves several pixels.
SPACE = Space(
    "msca_conv.single",
    (
        config(4, 1, BLOCK_P=32, BLOCK_C=32),
        config(4, 1, BLOCK_P=16, BLOCK_C=32),
        config(4, 1, BLOCK_P=16, BLOCK_C=64),
        config(4, 1, BLOCK_P=64, BLOCK_C=16),
    ),
    lambda c: 6 * c["BLOCK_P"] * c["BLOCK_C"],
)


def in_one_launch(u: torch.Tensor, *params: Any) -> torch.Tensor:
    """`segnext_kernels.msca_conv` on a GPU: by its CUDA kernel, which holds rows in registers, else by this one."""
    if backend.choose("msca_conv", u, *params) == "cuda":
        return torch.ops.segnext_kernels.msca_conv(u, *params)
    return forward(u, *params)


def forward(
    u: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: list[torch.Tensor],
    column_weights: list[torch.Tensor],
    row_biases: list[torch.Tensor],
    column_biases: list[torch.Tensor],
) -> torch.Tensor:
    """See `ops.msca_conv.op`."""
    out = memory_format.empty_like(u)
    n, c, h, w = u.shape
    sizes = [row.shape[3] for row in row_weights]
    longest = max(sizes, default=1)

    def filled(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Pad the list with a tensor that the kernel does not read."""
        return tensors + [root_weight] * (MOST_TRITON_STRIPS - len(tensors))

    rows_and_columns = filled(row_weights), filled(column_weights)
    biases = filled(row_biases) + filled(column_biases)
    # rows are (C, 1, 1, K), columns (C, 1, K, 1)
    strides = [
        (t.stride(0), t.stride(axis))
        for tensors, axis in zip(rows_and_columns, (3, 2), strict=True)
        for t in tensors
    ]

    def run(chosen: Config) -> torch.Tensor:
        blocks = n * triton.cdiv(c, chosen["BLOCK_C"])
        rows = next((r for r in BANDS if blocks * triton.cdiv(h, r) >= MULTIPROCESSORS), BANDS[-1])
        rows = min(rows, triton.next_power_of_2(h))
        programs, scratch_rows = blocks * triton.cdiv(h, rows), min(h, rows + 2 * (longest // 2))
        scratch = u.new_empty(programs * (1 + len(sizes)) * scratch_rows * w * chosen["BLOCK_C"])
        launch.start(
            strips_kernel, (programs,),
            u, scratch, out, root_weight, root_weight if root_bias is None else root_bias,
            *rows_and_columns[0], *rows_and_columns[1], *biases,
            h, w, c, scratch_rows, *u.stride(), *out.stride(), root_weight.stride(0), *root_weight.stride()[2:],
            0 if root_bias is None else root_bias.stride(0), *(s for pair in strides for s in pair),
            *(t.stride(0) for t in biases),
            config=chosen, ROOT=root_weight.shape[2], **dict(zip(("K0", "K1", "K2"), [*sizes, 0, 0, 0], strict=False)),
            LONGEST=longest, ROOT_BIAS=root_bias is not None, ROW_BIAS=bool(row_biases),
            COLUMN_BIAS=bool(column_biases), ROWS=rows,
        )  # fmt: skip
        return out

    return tuning.tuned(SPACE, size_class(u), u, run)
