"""conv2d_act in Triton: act(conv(x, W) + b) as a product over pixels whose left operand is gathered.

    out[p, o] = act(sum_(t, i) x[source(p, t), i] W[o, t, i] + b[o])            t: taps; source: stride and padding

There are three ways:
  1x1, stride 1   the product of `triton.pointwise`;
  many channels   a step of the sum is BLOCK_K channels of one tap: whole vectors of channels_last pixels. The address
                  of a pixel is recomputed for each step; taps outside the image give zeros;
  few channels    (an image's three) all taps and channels are one step of up to 64, and each element is gathered
                  separately.
x is rounded to W's dtype as it is read, so a float32 image of any memory format needs no conversion before.

Tiling: a program makes BLOCK_P pixels by BLOCK_N output channels in float32. Programs of the same pixel tile are
neighbours, so all but the first read x from L2.

P output pixels, T taps: 2 T P Ci Co FLOP; x once (from L1 and L2 T / stride^2 times), out once. Model for an H200
(bench/issue_model.json): SegNeXt-T's at 768x1536 are bound by instructions. The stem's first convolution (295 k pixels
of 32 gathered elements and 16 GELUs) takes 24 us, its second one 10, the downsampling convolutions 6, 9 and 11 us, at
0.7 to 0.8 GFLOP each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels.ops.conv2d_act.reference import empty_out
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.gelu import gelu
from segnext_kernels.triton.pointwise import pointwise
from segnext_kernels.triton.tuning import Config, Space, config, size_class

GATHERED = 64  # one step has at most this many taps times channels


@triton.jit
def conv2d_act_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, pixels, out_width, height, width, in_channels, out_channels, taps,
    tap_columns, stride, padding,
    stride_xn, stride_xc, stride_xh, stride_xw, stride_on, stride_oc, stride_oh, stride_ow,
    stride_wo, stride_wi, stride_wh, stride_ww, stride_b,
    ACT: tl.constexpr, BIAS: tl.constexpr, GATHER: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    panels = tl.cdiv(out_channels, BLOCK_N)
    tiles = tl.cdiv(pixels, BLOCK_P)
    program = tl.program_id(0)
    tile = (program // panels) % tiles
    image = (program // panels // tiles).to(tl.int64)
    pixel = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    o = ((program % panels) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    in_image, in_panel = pixel < pixels, o < out_channels
    out_y, out_x = pixel // out_width, pixel % out_width
    y, x = out_y * stride - padding, out_x * stride - padding
    start = x_ptr + image * stride_xn
    k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    if GATHER:
        tap, i = k // in_channels, (k % in_channels).to(tl.int64)
        row, column = tap // tap_columns, tap % tap_columns
        at_y, at_x = y[:, None] + row[None, :], x[:, None] + column[None, :]
        inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        known = tap < taps
        offsets = at_y.to(tl.int64) * stride_xh + at_x.to(tl.int64) * stride_xw + (i * stride_xc)[None, :]
        value = tl.load(start + offsets, mask=inside & in_image[:, None] & known[None, :], other=0.0)
        at_w = i * stride_wi + row.to(tl.int64) * stride_wh + column.to(tl.int64) * stride_ww
        w = tl.load(
            weight_ptr + at_w[:, None] + (o * stride_wo)[None, :],
            mask=known[:, None] & in_panel[None, :],
            other=0.0,
        )
        acc = tl.dot(value.to(weight_ptr.dtype.element_ty), w, acc, input_precision="ieee")
    else:
        blocks = tl.cdiv(in_channels, BLOCK_K)
        for step in range(0, taps * blocks):
            tap = step // blocks
            row, column = tap // tap_columns, tap % tap_columns
            at_y, at_x = y + row, x + column
            inside = in_image & (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
            i = ((step % blocks) * BLOCK_K + k).to(tl.int64)
            rows = start + at_y.to(tl.int64) * stride_xh + at_x.to(tl.int64) * stride_xw
            value = tl.load(
                rows[:, None] + (i * stride_xc)[None, :],
                mask=inside[:, None] & (i < in_channels)[None, :],
                other=0.0,
            )
            at_w = i * stride_wi + row * stride_wh + column * stride_ww
            w = tl.load(
                weight_ptr + at_w[:, None] + (o * stride_wo)[None, :],
                mask=(i < in_channels)[:, None] & in_panel[None, :],
                other=0.0,
            )
            acc = tl.dot(value.to(weight_ptr.dtype.element_ty), w, acc, input_precision="ieee")
    if BIAS:
        acc += tl.load(bias_ptr + o * stride_b, mask=in_panel, other=0.0).to(tl.float32)[None, :]
    if ACT == "relu":
        acc = tl.where(acc < 0.0, 0.0, acc)  # keeps NaN, as PyTorch does
    if ACT == "gelu":
        acc = gelu(acc)
    rows = out_ptr + image * stride_on + out_y.to(tl.int64) * stride_oh + out_x.to(tl.int64) * stride_ow
    mask = in_image[:, None] & in_panel[None, :]
    tl.store(rows[:, None] + (o * stride_oc)[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)


def _live(c: Config) -> int:
    return c["BLOCK_P"] * (c["BLOCK_N"] + GATHERED // 2)


def _shared(c: Config, size: int) -> int:
    return c.num_stages * (c["BLOCK_P"] + c["BLOCK_N"]) * GATHERED * size


def _space(name: str, *configs: Config) -> Space:
    return Space(f"conv2d_act.{name}", configs, _live, _shared)


# GATHER is for an image's 3 channels to 16 or 32, NARROW for up to 64 output channels, WIDE for more. Maps with more
# are small: tiles of 64 x 64 would make only 72 programs of 160 -> 256 at 24 x 48.
GATHER = _space(
    "gather",
    config(4, 1, BLOCK_P=64, BLOCK_N=16),
    config(4, 1, BLOCK_P=128, BLOCK_N=16),
    config(4, 1, BLOCK_P=64, BLOCK_N=32),
)
NARROW = _space(
    "narrow",
    config(4, 3, BLOCK_P=64, BLOCK_N=32),
    config(4, 3, BLOCK_P=64, BLOCK_N=64),
    config(4, 3, BLOCK_P=128, BLOCK_N=32),
)
WIDE = _space(
    "wide",
    config(4, 4, BLOCK_P=32, BLOCK_N=64),
    config(4, 3, BLOCK_P=64, BLOCK_N=64),
    config(4, 4, BLOCK_P=32, BLOCK_N=32),
)
FLOAT = _space("float", config(4, 2, BLOCK_P=32, BLOCK_N=32))


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: int,
    act: str,
    float32_out: bool,
    channels_last: bool,
) -> torch.Tensor:
    """See `ops.conv2d_act.op`."""
    out = empty_out(x, weight, stride, padding, float32_out, channels_last)
    if out.numel() == 0:
        return out
    n, ci, height, width = x.shape
    co, _, tap_rows, tap_columns = weight.shape
    taps = tap_rows * tap_columns
    if taps == 1 and stride == 1 and padding == 0:
        return pointwise(x, weight[:, :, 0, 0], bias, out, act=act)
    out_height, out_width = out.shape[2:]
    gathers = taps * ci <= GATHERED
    block_k = max(16, triton.next_power_of_2(taps * ci)) if gathers else channels_per_step(ci)

    def run(c: Config) -> torch.Tensor:
        tiles = triton.cdiv(out_height * out_width, c["BLOCK_P"]) * triton.cdiv(co, c["BLOCK_N"])
        launch.start(
            conv2d_act_kernel, (n * tiles,),
            x, weight, weight if bias is None else bias, out, out_height * out_width, out_width, height, width,
            ci, co, taps, tap_columns, stride, padding, *x.stride(), *out.stride(), *weight.stride(),
            0 if bias is None else bias.stride(0),
            config=c, ACT=act, BIAS=bias is not None, GATHER=gathers, BLOCK_K=block_k,
        )  # fmt: skip
        return out

    space = FLOAT if weight.dtype == torch.float32 else GATHER if gathers else NARROW if co <= 64 else WIDE
    return tuning.tuned(space, size_class(x, f"{co}-k{tap_rows}x{tap_columns}"), x, run)


def channels_per_step(channels: int) -> int:
    """The largest step of 64, 32, 16 that pads the channels least."""
    return min((64, 32, 16), key=lambda step: (triton.cdiv(channels, step) * step, -step))
