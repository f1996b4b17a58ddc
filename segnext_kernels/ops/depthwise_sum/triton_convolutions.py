"""Sums of depthwise convolutions in Triton: out = base + the convolutions of up to three images, of any odd size.

A program has ROWS (one or two) rows of PIXELS BLOCK_W pixels x BLOCK_C channels, whose sums are registers. It loads
each input pixel once per tap column, for both rows; they are a dilation apart, so that they share input rows. A thread
has PIXELS pixels, which share the loads of taps. Reversed taps give the gradient of a convolution's input.

In channels_last a 1 x K kernel runs as K x 1 on the transposed image, since only output rows share input pixels. Sizes
and dilations are arguments and the loops over taps are loops of the machine code, so the same code serves all sizes.
Taps that lie beside the image for a whole tile are left out, not multiplied by zeros: of 51 rows of taps on 14 rows of
pixels they are two thirds.

Bytes, for E elements of s bytes: (images + base + 1) s E, and halos from L2. FLOPs: 2 Kh Kw E per convolution. Model
for an H200: instructions are the bound, in bfloat16 three to four per multiply-add, of which two convert pixels and
taps to float32. Tried in that model, for 5 x 5 taps: 204 instructions per element with one row and one pixel per
thread, 112 with two of both, 87 with two rows and four pixels, 90 with four rows and two pixels (and twice the source).
Taps in float32 cost more than they save: the compiler lays them out differently from the image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.ops.depthwise_sum.triton_layers import Layer
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.tuning import Config, Space, config, size_class

TERMS = 3  # convolutions in one launch; the kernel has named arguments for each
MANY = (
    1 << 19
)  # elements that make 256 programs of one warp of the largest tiles, 2 per multiprocessor of an H200

Term = tuple[torch.Tensor, Layer]


@triton.jit
def _tap(taps_at, offset, c, channels, WHOLE: tl.constexpr):
    if WHOLE:
        return tl.load(taps_at + offset).to(tl.float32)
    return tl.load(taps_at + offset, mask=c < channels, other=0.0).to(tl.float32)


@triton.jit
def _row(
    total0, total1, at, taps_at, t, w, column, c, width, channels, stride_h, stride_w, tap_h, tap_w, kh, kw, dh, dw,
    UPPER: tl.constexpr, LOWER: tl.constexpr, SPAN: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The sums of the UPPER and LOWER output row plus input row t, times the taps of row t and of the row before."""
    at += tl.full((1, 1, 1), (t - kh // 2) * dh, tl.int64) * stride_h
    low = tl.maximum(0, kw // 2 - (column + SPAN - 1) // dw)
    high = tl.minimum(kw, kw // 2 + tl.cdiv(width - column, dw))
    # not unrolled: the compiler would start so many loads at once that registers spill
    for j in range(low, high):
        shift = (j - kw // 2) * dw
        inside = (w + shift >= 0) & (w + shift < width)
        if not WHOLE:
            inside = inside & (c < channels)
        x = tl.load(at + tl.full((1, 1, 1), shift, tl.int64) * stride_w, mask=inside, other=0.0).to(
            tl.float32
        )
        tap = t * tap_h + j * tap_w
        if UPPER:
            total0 += x * _tap(taps_at, tap, c, channels, WHOLE)
        if LOWER:
            total1 += x * _tap(taps_at, tap - tap_h, c, channels, WHOLE)
    return total0, total1


@triton.jit
def _convolved(
    total0, total1, x_ptr, taps_ptr, n, first, w, column, c, height, width, channels,
    stride_n, stride_c, stride_h, stride_w, tap_h, tap_w, kh, kw, dh, dw,
    ROWS: tl.constexpr, SPAN: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The sums of output rows first and first + dh plus one convolution of the image."""
    at = (
        x_ptr
        + n * stride_n
        + tl.full((1, 1, 1), first, tl.int64) * stride_h
        + w.to(tl.int64) * stride_w
        + c * stride_c
    )
    taps_at, tap_h, tap_w = taps_ptr + c, tap_h * channels, tap_w * channels
    top, bottom = first - kh // 2 * dh, first + (kh - kh // 2) * dh
    if (top >= 0) & (top < height):  # input row 0, which the lower output row does not need
        total0, total1 = _row(
            total0, total1, at, taps_at, 0, w, column, c, width, channels, stride_h, stride_w, tap_h, tap_w, kh, kw, dh,
            dw, True, False, SPAN, WHOLE,
        )  # fmt: skip
    for t in range(
        tl.maximum(1, kh // 2 - first // dh), tl.minimum(kh, kh // 2 + tl.cdiv(height - first, dh))
    ):
        total0, total1 = _row(
            total0, total1, at, taps_at, t, w, column, c, width, channels, stride_h, stride_w, tap_h, tap_w, kh, kw, dh,
            dw, True, ROWS > 1, SPAN, WHOLE,
        )  # fmt: skip
    if ROWS > 1:
        if (bottom >= 0) & (bottom < height):  # row kh, which only the lower one needs
            total0, total1 = _row(
                total0, total1, at, taps_at, kh, w, column, c, width, channels, stride_h, stride_w, tap_h, tap_w, kh,
                kw, dh, dw, False, True, SPAN, WHOLE,
            )  # fmt: skip
    return total0, total1


@triton.jit
def _finish_row(total, base_at, out_at, row, inside, height, stride_bh, stride_oh, HAS_BASE: tl.constexpr):
    row = tl.full((1, 1, 1), row, tl.int64)
    inside = inside & (row < height)
    if HAS_BASE:
        total += tl.load(base_at + row * stride_bh, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_at + row * stride_oh, total.to(out_at.dtype.element_ty), mask=inside)


@triton.jit
def _sum_kernel(
    x0_ptr, x1_ptr, x2_ptr, taps0_ptr, taps1_ptr, taps2_ptr, base_ptr, out_ptr, height, width, channels,
    stride_x0n, stride_x0c, stride_x0h, stride_x0w, stride_x1n, stride_x1c, stride_x1h, stride_x1w,
    stride_x2n, stride_x2c, stride_x2h, stride_x2w, stride_bn, stride_bc, stride_bh, stride_bw,
    stride_on, stride_oc, stride_oh, stride_ow, tap_h0, tap_w0, tap_h1, tap_w1, tap_h2, tap_w2,
    kh0, kw0, dw0, kh1, kw1, dw1, kh2, kw2, dw2, dh,
    TERMS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_BASE: tl.constexpr, NHWC: tl.constexpr, WHOLE: tl.constexpr,
    ROWS: tl.constexpr, PIXELS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    tiles_w, bands = tl.cdiv(width, PIXELS * BLOCK_W), tl.cdiv(height, ROWS * dh) * dh
    tile = tl.program_id(0)
    n = (tile // (tiles_w * bands)).to(tl.int64)
    band = (tile // tiles_w) % bands
    first = band // dh * (ROWS * dh) + band % dh
    column = tile % tiles_w * (PIXELS * BLOCK_W)
    w = column + tl.arange(0, PIXELS)[:, None, None] * BLOCK_W + tl.arange(0, BLOCK_W)[None, :, None]
    c = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)[None, None, :]
    # in channels_last each pixel's thread loads its taps: the compiler would lay out one row of them differently from
    # the image, and move every tile through shared memory
    c = tl.broadcast_to(c, (1, BLOCK_W if NHWC else 1, BLOCK_C))
    total0 = tl.zeros((PIXELS, BLOCK_W, BLOCK_C), tl.float32)
    if HAS_BIAS:  # it follows the taps
        total0 += _tap(taps0_ptr + c, kh0 * kw0 * channels, c, channels, WHOLE)
        if TERMS > 1:
            total0 += _tap(taps1_ptr + c, kh1 * kw1 * channels, c, channels, WHOLE)
        if TERMS > 2:
            total0 += _tap(taps2_ptr + c, kh2 * kw2 * channels, c, channels, WHOLE)
    total1 = total0
    total0, total1 = _convolved(
        total0, total1, x0_ptr, taps0_ptr, n, first, w, column, c, height, width, channels, stride_x0n, stride_x0c,
        stride_x0h, stride_x0w, tap_h0, tap_w0, kh0, kw0, dh, dw0, ROWS, PIXELS * BLOCK_W, WHOLE,
    )  # fmt: skip
    if TERMS > 1:
        total0, total1 = _convolved(
            total0, total1, x1_ptr, taps1_ptr, n, first, w, column, c, height, width, channels, stride_x1n, stride_x1c,
            stride_x1h, stride_x1w, tap_h1, tap_w1, kh1, kw1, dh, dw1, ROWS, PIXELS * BLOCK_W, WHOLE,
        )  # fmt: skip
    if TERMS > 2:
        total0, total1 = _convolved(
            total0, total1, x2_ptr, taps2_ptr, n, first, w, column, c, height, width, channels, stride_x2n, stride_x2c,
            stride_x2h, stride_x2w, tap_h2, tap_w2, kh2, kw2, dh, dw2, ROWS, PIXELS * BLOCK_W, WHOLE,
        )  # fmt: skip
    inside = (w < width) & (c < channels)
    base_at = base_ptr + n * stride_bn + w.to(tl.int64) * stride_bw + c * stride_bc
    out_at = out_ptr + n * stride_on + w.to(tl.int64) * stride_ow + c * stride_oc
    _finish_row(total0, base_at, out_at, first, inside, height, stride_bh, stride_oh, HAS_BASE)
    if ROWS > 1:
        _finish_row(total1, base_at, out_at, first + dh, inside, height, stride_bh, stride_oh, HAS_BASE)


def _live(config: Config) -> int:
    # the sums, the pixels and the taps
    return (config["ROWS"] * config["PIXELS"] + config["PIXELS"] + 1) * config["BLOCK_W"] * config["BLOCK_C"]


# Eight places of BLOCK_W x BLOCK_C per thread are 16 bytes of a 16-bit type. Keys: whether channels are innermost.
LARGE = {
    True: Space(
        "depthwise_sum.large.nhwc",
        (
            config(ROWS=2, PIXELS=4, BLOCK_W=8, BLOCK_C=32, num_warps=1),
            config(ROWS=2, PIXELS=2, BLOCK_W=8, BLOCK_C=64, num_warps=2),
            config(ROWS=2, PIXELS=2, BLOCK_W=8, BLOCK_C=32, num_warps=1),
        ),
        _live,
    ),
    False: Space(
        "depthwise_sum.large.nchw",
        (
            config(ROWS=2, PIXELS=1, BLOCK_W=32, BLOCK_C=8, num_warps=1),
            config(ROWS=2, PIXELS=1, BLOCK_W=64, BLOCK_C=8, num_warps=2),
            config(ROWS=2, PIXELS=1, BLOCK_W=16, BLOCK_C=16, num_warps=1),
        ),
        _live,
    ),
}
SMALL = {
    True: Space(
        "depthwise_sum.small.nhwc",
        (
            config(ROWS=1, PIXELS=1, BLOCK_W=8, BLOCK_C=32, num_warps=1),
            config(ROWS=2, PIXELS=2, BLOCK_W=8, BLOCK_C=32, num_warps=1),
            config(ROWS=1, PIXELS=1, BLOCK_W=8, BLOCK_C=16, num_warps=1),
        ),
        _live,
    ),
    False: Space(
        "depthwise_sum.small.nchw",
        (
            config(ROWS=2, PIXELS=1, BLOCK_W=32, BLOCK_C=8, num_warps=1),
            config(ROWS=1, PIXELS=1, BLOCK_W=16, BLOCK_C=8, num_warps=1),
        ),
        _live,
    ),
}


def convolved(terms: Sequence[Term], bases: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    """Write the sum of the images' convolutions and of ``bases`` into ``out``, which is none of them."""
    base = functools.reduce(torch.add, bases) if bases else None
    launches = _launches(terms, memory_format.is_channels_last(out))
    if base is not None and not launches:
        return out.copy_(base)
    for index, (transposed, dilation, chosen) in enumerate(launches):
        to = out if index == len(launches) - 1 else memory_format.empty_like(out)
        if transposed:
            chosen = [(image.mT, layer.transposed()) for image, layer in chosen]
            _sum(chosen, None if base is None else base.mT, to.mT, dilation)
        else:
            _sum(chosen, base, to, dilation)
        base = to
    return out


def _launches(terms: Sequence[Term], nhwc: bool) -> list[tuple[bool, int, list[Term]]]:
    """Terms that share a launch, with whether to transpose and the dilation of the rows, in which they agree."""
    alike: dict[tuple[bool, int], list[Term]] = {}
    for term in terms:
        (kh, kw), (dh, dw) = term[1].size, term[1].dilation
        transposed = nhwc and kh == 1 and kw > 1
        rows = dw if transposed else dh if kh > 1 else 1
        alike.setdefault((transposed, rows), []).append(term)
    return [
        (*key, group[begin : begin + TERMS])
        for key, group in alike.items()
        for begin in range(0, len(group), TERMS)
    ]


def _sum(terms: list[Term], base: torch.Tensor | None, out: torch.Tensor, dilation: int) -> None:
    used = (terms + terms[:1] * TERMS)[:TERMS]  # the kernel does not read those that are added here
    strides = [stride for image, _ in used for stride in image.stride()]
    steps = [step for _, layer in used for step in layer.steps]
    sizes = [number for _, layer in used for number in (*layer.size, layer.dilation[1])]
    based = out if base is None else base
    n, c, h, w = out.shape
    nhwc = memory_format.is_channels_last(out)

    def run(config: Config) -> None:
        bands = triton.cdiv(h, config["ROWS"] * dilation) * dilation
        tiles = n * bands * triton.cdiv(w, config["PIXELS"] * config["BLOCK_W"])
        launch.start(
            _sum_kernel, (tiles, triton.cdiv(c, config["BLOCK_C"])), *(image for image, _ in used),
            *(layer.taps for _, layer in used), based, out, h, w, c, *strides, *based.stride(), *out.stride(), *steps,
            *sizes, dilation, config=config, TERMS=len(terms), HAS_BIAS=terms[0][1].has_bias,
            HAS_BASE=base is not None, NHWC=nhwc, WHOLE=c % config["BLOCK_C"] == 0,
        )  # fmt: skip

    spaces = LARGE if out.numel() >= MANY else SMALL
    tuning.tuned(spaces[nhwc], size_class(out, *(layer.words for _, layer in terms)), out, run)
