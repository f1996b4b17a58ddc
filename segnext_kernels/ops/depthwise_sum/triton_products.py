"""The gradients of a depthwise convolution's taps and bias in Triton, for any odd size and dilation.

A program has TAPS taps and BLOCK_C channels, and sums gradient times moved input over its part of the tiles. A load of
the gradient serves all its taps. Rows that its taps move beside the image are left out. The parts are as few as still
make PROGRAMS programs; `torch.sum` adds them, so that the order of the sums depends on the shapes alone.

Bytes, for E elements of s bytes and K taps: 2 s E from memory, (1 + TAPS) / TAPS s K E from L1 and L2, 4 (K + 1) C per
part. FLOPs: 2 K E.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.ops.depthwise_sum.triton_layers import Layer
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.tuning import Config, Space, config, size_class

PROGRAMS = 4096  # of one warp each, 31 per multiprocessor of an H200


@triton.jit
def _products_kernel(
    grad_ptr, x_ptr, sums_ptr, images, height, width, channels,
    stride_gn, stride_gc, stride_gh, stride_gw, stride_xn, stride_xc, stride_xh, stride_xw, kh, kw, dh, dw,
    HAS_BIAS: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Per part and tap, the sum over the part's tiles of gradient times moved input, (parts, taps, C).

    A part's tiles are part, part + parts, part + 2 parts, ...; a program has TAPS taps and BLOCK_C channels of a part.
    The bias follows the taps: its input is 1.
    """
    taps, count = kh * kw, kh * kw
    if HAS_BIAS:
        count += 1
    part, parts = tl.program_id(0), tl.num_programs(0)
    tiles_w, tiles_h = tl.cdiv(width, BLOCK_W), tl.cdiv(height, ROWS)
    first_tap = tl.program_id(2) * TAPS
    tap = (first_tap + tl.arange(0, TAPS))[:, None, None]
    is_tap = tap < taps
    by_h, by_w = (tap // kw - kh // 2) * dh, (tap % kw - kw // 2) * dw
    # what is not loaded counts as 0 or, for the bias, as 1
    other = tl.where(is_tap, 0.0, 1.0).to(x_ptr.dtype.element_ty)
    # rows that every tap moves beside the image have no products; the bias counts all
    least, most = (first_tap // kw - kh // 2) * dh, ((first_tap + TAPS - 1) // kw - kh // 2) * dh
    if first_tap + TAPS > taps:
        least, most = tl.minimum(least, 0), tl.maximum(most, 0)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    c = channel[None, None, :]
    total = tl.zeros((TAPS, BLOCK_W, BLOCK_C), tl.float32)
    for tile in range(part, images * tiles_h * tiles_w, parts):
        n = tl.full((1, 1, 1), tile // (tiles_w * tiles_h), tl.int64)
        top = (tile // tiles_w) % tiles_h * ROWS
        w = (tile % tiles_w * BLOCK_W + tl.arange(0, BLOCK_W))[None, :, None]
        inside = (w < width) & (c < channels)
        moved = w + by_w
        moved_inside = inside & is_tap & (moved >= 0) & (moved < width)
        grad_at = grad_ptr + n * stride_gn + w.to(tl.int64) * stride_gw + c * stride_gc
        x_at = (
            x_ptr
            + n * stride_xn
            + by_h.to(tl.int64) * stride_xh
            + moved.to(tl.int64) * stride_xw
            + c * stride_xc
        )
        for h in range(tl.maximum(top, -most), tl.minimum(tl.minimum(top + ROWS, height), height - least)):
            row = tl.full((1, 1, 1), h, tl.int64)
            grad = tl.load(grad_at + row * stride_gh, mask=inside, other=0.0).to(tl.float32)
            mask = moved_inside & (h + by_h >= 0) & (h + by_h < height)
            total += grad * tl.load(x_at + row * stride_xh, mask=mask, other=other).to(tl.float32)
    tap = first_tap + tl.arange(0, TAPS)
    sums = sums_ptr + (part.to(tl.int64) * count + tap)[:, None] * channels + channel[None, :]
    tl.store(sums, tl.sum(total, 1), mask=(tap < count)[:, None] & (channel < channels)[None, :])


def _live(config: Config) -> int:
    # the sums, the inputs and the gradient
    return (2 * config["TAPS"] + 1) * config["BLOCK_W"] * config["BLOCK_C"]


# 64 sums per thread, which a load of 16 bytes of a 16-bit type serves by eight. Keys: whether channels are innermost.
SPACES = {
    True: Space(
        "depthwise_sum.products.nhwc",
        (
            config(TAPS=4, ROWS=16, BLOCK_W=16, BLOCK_C=32, num_warps=1),
            config(TAPS=8, ROWS=16, BLOCK_W=8, BLOCK_C=32, num_warps=1),
            config(TAPS=8, ROWS=32, BLOCK_W=8, BLOCK_C=64, num_warps=2),
        ),
        _live,
    ),
    False: Space(
        "depthwise_sum.products.nchw",
        (
            config(TAPS=8, ROWS=16, BLOCK_W=16, BLOCK_C=8, num_warps=1),
            config(TAPS=4, ROWS=16, BLOCK_W=32, BLOCK_C=8, num_warps=1),
        ),
        _live,
    ),
}


def products(grad: torch.Tensor, x: torch.Tensor, layer: Layer) -> torch.Tensor:
    """(Kh Kw, C) in float32: the gradients of the layer's taps, and of its bias as one more row where it has one."""
    n, c, h, w = x.shape
    count = layer.size[0] * layer.size[1] + layer.has_bias

    def run(config: Config) -> torch.Tensor:
        tiles = n * triton.cdiv(h, config["ROWS"]) * triton.cdiv(w, config["BLOCK_W"])
        blocks, groups = triton.cdiv(c, config["BLOCK_C"]), triton.cdiv(count, config["TAPS"])
        parts = min(tiles, triton.cdiv(PROGRAMS, blocks * groups))
        sums = torch.empty((parts, count, c), dtype=torch.float32, device=x.device)
        launch.start(
            _products_kernel, (parts, blocks, groups), grad, x, sums, n, h, w, c, *grad.stride(), *x.stride(),
            *layer.size, *layer.dilation, config=config, HAS_BIAS=layer.has_bias,
        )  # fmt: skip
        return sums.sum(0)

    return tuning.tuned(SPACES[memory_format.is_channels_last(x)], size_class(x, layer.words), x, run)
