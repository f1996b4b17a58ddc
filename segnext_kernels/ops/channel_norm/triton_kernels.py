"""channel_norm in Triton: (x - mean) rstd weight + bias over the channels of each pixel, in one launch.

Tiling: a program holds BLOCK_P pixels by all channels in registers. It computes the mean, then squared deviations from
it, so an offset of the whole input costs no digits. Consecutive lanes have consecutive channels (channels_last).

Bytes: x once, out once. Model for an H200 (bench/issue_model.json): 20 to 36 instructions per element of two bytes. In
stage 1 of T at 768x1536 (x has 4.7 MB) both bounds are 2 us, about as long as a launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.pointwise import Pixels, pixel_offsets
from segnext_kernels.triton.tuning import Config, Space, config, size_class


@triton.jit
def channel_norm_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, pixels, width, channels, eps,
    stride_xn, stride_xc, stride_xh, stride_xw, stride_on, stride_oc, stride_oh, stride_ow, stride_w, stride_b,
    FLAT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(pixels, BLOCK_P)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    p = (tl.program_id(0) % tiles).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C).to(tl.int64)
    is_channel = c < channels
    inside = (p < pixels)[:, None] & is_channel[None, :]
    rows = x_ptr + image * stride_xn + pixel_offsets(p, width, stride_xh, stride_xw, FLAT)
    x = tl.load(rows[:, None] + (c * stride_xc)[None, :], mask=inside, other=0.0).to(tl.float32)
    count = tl.full((1, 1), channels, tl.float32)  # Triton makes an argument of 1 a constant
    mean = tl.sum(x, 1)[:, None] / count
    deviation = tl.where(inside, x - mean, 0.0)
    rstd = 1.0 / tl.sqrt_rn(tl.sum(deviation * deviation, 1)[:, None] / count + eps)
    weight = tl.load(weight_ptr + c * stride_w, mask=is_channel, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c * stride_b, mask=is_channel, other=0.0).to(tl.float32)
    y = deviation * rstd * weight[None, :] + bias[None, :]
    out_rows = out_ptr + image * stride_on + pixel_offsets(p, width, stride_oh, stride_ow, FLAT)
    tl.store(out_rows[:, None] + (c * stride_oc)[None, :], y.to(out_ptr.dtype.element_ty), mask=inside)


def _space(name: str, configs: tuple[Config, ...], channels: int) -> Space:
    return Space(f"channel_norm.{name}", configs, lambda c: 2 * c["BLOCK_P"] * channels)


# 16 and 32 values per thread are two and four 16-byte vectors of a 16-bit type.
NARROW = _space("narrow", (config(4, BLOCK_P=32), config(4, BLOCK_P=16), config(4, BLOCK_P=64)), 64)
WIDE = _space("wide", (config(4, BLOCK_P=8), config(4, BLOCK_P=4), config(8, BLOCK_P=8)), 512)


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """See `ops.channel_norm.op`."""
    out = memory_format.empty_like(x)
    if x.numel() == 0:
        return out
    walk, channels = Pixels.of(x, out), x.shape[1]

    def run(c: Config) -> torch.Tensor:
        by_x, by_out = walk.strides
        launch.start(
            channel_norm_kernel, (walk.images * triton.cdiv(walk.pixels, c["BLOCK_P"]),),
            x, weight, bias, out, walk.pixels, walk.width, channels, eps, *by_x, *by_out,
            weight.stride(0), bias.stride(0),
            config=c, FLAT=walk.flat, BLOCK_C=triton.next_power_of_2(channels),
        )  # fmt: skip
        return out

    return tuning.tuned(NARROW if channels <= 64 else WIDE, size_class(x), x, run)
