"""resize_sum in Triton: base plus up to three bilinearly resized tensors, in one launch.

Tiling: a program makes BLOCK_P pixels by BLOCK_C channels in float32. A pixel's sources and weights are computed once
for its channels. The four corners come from L1 and L2, because neighbouring pixels share them. The blend is PyTorch's:
(1 - wy) ((1 - wx) a + wx b) + wy ((1 - wx) c + wx d).

Bytes, e bytes per element: 2 e N C H W, and each other tensor once. Instructions: 54 per element for two other tensors.
Model for an H200 (bench/issue_model.json): T at 768x1536 (256 channels, 96 x 192) has 4.7 M elements, 5 us by bytes and
9 us by instructions.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.bilinear import source_of
from segnext_kernels.triton.pointwise import Pixels, pixel_offsets
from segnext_kernels.triton.tuning import Config, Space, config, size_class


@triton.jit
def _resized(
    ptr, image, y, x, c, mask, height, width, scale_h, scale_w, reach_h, reach_w, stride_n, stride_c, stride_h, stride_w
):  # fmt: skip
    """The bilinear blend at output pixels (y, x) and channels c: (pixels, channels)."""
    top, below, wy = source_of(y, scale_h, height, reach_h)
    left, right, wx = source_of(x, scale_w, width, reach_w)
    start = ptr + image * stride_n + (c * stride_c)[None, :]
    top, below = top.to(tl.int64) * stride_h, below.to(tl.int64) * stride_h
    left, right = left.to(tl.int64) * stride_w, right.to(tl.int64) * stride_w
    top_left = tl.load(start + (top + left)[:, None], mask=mask, other=0.0).to(tl.float32)
    top_right = tl.load(start + (top + right)[:, None], mask=mask, other=0.0).to(tl.float32)
    below_left = tl.load(start + (below + left)[:, None], mask=mask, other=0.0).to(tl.float32)
    below_right = tl.load(start + (below + right)[:, None], mask=mask, other=0.0).to(tl.float32)
    wy, wx = wy[:, None], wx[:, None]
    upper = (1.0 - wx) * top_left + wx * top_right
    lower = (1.0 - wx) * below_left + wx * below_right
    return (1.0 - wy) * upper + wy * lower


@triton.jit
def resize_sum_kernel(
    base_ptr, out_ptr, first_ptr, second_ptr, third_ptr, pixels, width, channels,
    stride_bn, stride_bc, stride_bh, stride_bw, stride_on, stride_oc, stride_oh, stride_ow,
    height_1, width_1, scale_h1, scale_w1, reach_h1, reach_w1, stride_1n, stride_1c, stride_1h, stride_1w,
    height_2, width_2, scale_h2, scale_w2, reach_h2, reach_w2, stride_2n, stride_2c, stride_2h, stride_2w,
    height_3, width_3, scale_h3, scale_w3, reach_h3, reach_w3, stride_3n, stride_3c, stride_3h, stride_3w,
    FLAT: tl.constexpr, OTHERS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    panels = tl.cdiv(channels, BLOCK_C)
    tiles = tl.cdiv(pixels, BLOCK_P)
    program = tl.program_id(0)
    tile = (program // panels) % tiles
    image = (program // panels // tiles).to(tl.int64)
    c = ((program % panels) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    pixel = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (pixel < pixels)[:, None] & (c < channels)[None, :]
    y, x = pixel // width, pixel % width
    p = pixel.to(tl.int64)
    rows = base_ptr + image * stride_bn + pixel_offsets(p, width, stride_bh, stride_bw, FLAT)
    total = tl.load(rows[:, None] + (c * stride_bc)[None, :], mask=mask, other=0.0).to(tl.float32)
    if OTHERS > 0:
        total += _resized(
            first_ptr, image, y, x, c, mask, height_1, width_1, scale_h1, scale_w1, reach_h1, reach_w1,
            stride_1n, stride_1c, stride_1h, stride_1w,
        )  # fmt: skip
    if OTHERS > 1:
        total += _resized(
            second_ptr, image, y, x, c, mask, height_2, width_2, scale_h2, scale_w2, reach_h2, reach_w2,
            stride_2n, stride_2c, stride_2h, stride_2w,
        )  # fmt: skip
    if OTHERS > 2:
        total += _resized(
            third_ptr, image, y, x, c, mask, height_3, width_3, scale_h3, scale_w3, reach_h3, reach_w3,
            stride_3n, stride_3c, stride_3h, stride_3w,
        )  # fmt: skip
    out_rows = out_ptr + image * stride_on + pixel_offsets(p, width, stride_oh, stride_ow, FLAT)
    tl.store(out_rows[:, None] + (c * stride_oc)[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


# 16 elements per thread: two 16-byte vectors per corner. Their 16 float32 values are in registers beside the sum's.
SPACE = Space(
    "resize_sum.forward",
    (
        config(4, BLOCK_P=32, BLOCK_C=64),
        config(4, BLOCK_P=16, BLOCK_C=64),
        config(4, BLOCK_P=16, BLOCK_C=128),
    ),
    lambda c: 4 * c["BLOCK_P"] * c["BLOCK_C"],
)


def forward(base: torch.Tensor, others: list[torch.Tensor], align_corners: bool = False) -> torch.Tensor:
    """See `ops.resize_sum.op`."""
    out = memory_format.empty_like(base)
    if base.numel() == 0:
        return out
    n, channels, height, width = base.shape
    walk = Pixels.of(base, out)
    slots: list[torch.Tensor] = (others + [base] * 3)[:3]
    numbers: list[float] = []
    for t in slots:
        (h, w), strides = t.shape[2:], t.stride()
        numbers += [h, w, h / height, w / width, int(h != height), int(w != width), *strides]

    def run(c: Config) -> torch.Tensor:
        by_base, by_out = walk.strides
        tiles = triton.cdiv(height * width, c["BLOCK_P"]) * triton.cdiv(channels, c["BLOCK_C"])
        launch.start(
            resize_sum_kernel, (n * tiles,),
            base, out, *slots, height * width, width, channels, *by_base, *by_out, *numbers,
            config=c, FLAT=walk.flat, OTHERS=len(others),
        )  # fmt: skip
        return out

    return tuning.tuned(SPACE, size_class(base, str(len(others))), base, run)
