"""conv_ffn in Triton: two kernels, between which the hidden tensor passes once; three above 64 channels in 16 bits.

    hidden = W1 x + b1                                       `triton.pointwise`, written as (N, H, W, E)
    out    = W2 GELU(dw3x3(hidden) + b) + b2 (+ x)           one product; dw3x3 and GELU make its operand

Tiling of the second: a program makes TILE_H x TILE_W pixels by all output channels in float32 (or by a panel of them,
if the map has too few pixels for the chip). It loops over the hidden channels in steps of BLOCK_E. In each step the
nine shifted tiles are loaded (the first from L2, the rest from L1), summed and put through GELU in float32, rounded to
the dtype and multiplied. In 16 bits, more than 64 output channels leave no registers for the taps, and computing GELU
once per 64 of them costs more than writing it to memory. There dwconv_gelu runs (by the backend of this call) and then
a second product: by the model 5 us instead of 19 for 160 channels at 32x32. float32 is multiplied as float32.

The backward is PyTorch's products around the kernels of dwconv_gelu: see `ops.conv_ffn.op`.

Model for an H200, P pixels, C in and out, E hidden, e bytes: 4 P C E + (18 + ~25) P E FLOP; e (P C + P E) bytes for the
first, e ((1 + halo) P E + 2 P C) for the second, halo = (TILE_H + 2) (TILE_W + 2) / (TILE_H TILE_W) - 1 (0.56 for
8 x 8), which L2 serves. Unfused: 4 e P E bytes more.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.gelu import gelu
from segnext_kernels.triton.pointwise import MULTIPROCESSORS, halves, pointwise, store_with_skip
from segnext_kernels.triton.tuning import Config, Space, config, size_class


@triton.jit
def depthwise_product_kernel(
    hidden_ptr, dw_ptr, dw_bias_ptr, weight_ptr, bias_ptr, skip_ptr, out_ptr,
    height, width, hidden_channels, out_channels,
    stride_de, stride_dh, stride_dw, stride_db, stride_wo, stride_we, stride_b,
    stride_sn, stride_sc, stride_sh, stride_sw, stride_on, stride_oc, stride_oh, stride_ow,
    SKIP: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    tiles_w, tiles_h = tl.cdiv(width, TILE_W), tl.cdiv(height, TILE_H)
    panels = tl.cdiv(out_channels, FIRST + REST)
    program = tl.program_id(0)
    panel = program % panels
    tile = program // panels
    image = (tile // tiles_w // tiles_h).to(tl.int64)
    place = tl.arange(0, TILE_H * TILE_W)
    h = ((tile // tiles_w) % tiles_h * TILE_H + place // TILE_W).to(tl.int64)
    w = (tile % tiles_w * TILE_W + place % TILE_W).to(tl.int64)
    in_image = (h < height) & (w < width)
    hidden_ptr += image * height * width * hidden_channels
    skip_ptr += image * stride_sn
    out_ptr += image * stride_on

    o = (panel * (FIRST + REST) + tl.arange(0, FIRST)).to(tl.int64)
    acc = tl.zeros((TILE_H * TILE_W, FIRST), tl.float32)
    if REST > 0:
        o_rest = (panel * (FIRST + REST) + FIRST + tl.arange(0, REST)).to(tl.int64)
        acc_rest = tl.zeros((TILE_H * TILE_W, REST), tl.float32)
    for start in range(0, hidden_channels, BLOCK_E):
        e = (start + tl.arange(0, BLOCK_E)).to(tl.int64)
        known = e < hidden_channels
        y = tl.zeros((TILE_H * TILE_W, BLOCK_E), tl.float32)
        y += tl.load(dw_bias_ptr + e * stride_db, mask=known, other=0.0).to(tl.float32)[None, :]
        for tap in tl.static_range(9):
            row, column = h + (tap // 3 - 1), w + (tap % 3 - 1)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            value = tl.load(
                hidden_ptr + ((row * width + column) * hidden_channels)[:, None] + e[None, :],
                mask=inside[:, None] & known[None, :],
                other=0.0,
            )
            at = dw_ptr + e * stride_de + (tap // 3) * stride_dh + (tap % 3) * stride_dw
            y += value.to(tl.float32) * tl.load(at, mask=known, other=0.0).to(tl.float32)[None, :]
        y = gelu(y).to(hidden_ptr.dtype.element_ty)
        columns = weight_ptr + (e * stride_we)[:, None]
        mask = known[:, None] & (o < out_channels)[None, :]
        acc = tl.dot(
            y, tl.load(columns + (o * stride_wo)[None, :], mask=mask, other=0.0), acc, input_precision="ieee"
        )
        if REST > 0:
            mask = known[:, None] & (o_rest < out_channels)[None, :]
            rest = tl.load(columns + (o_rest * stride_wo)[None, :], mask=mask, other=0.0)
            acc_rest = tl.dot(y, rest, acc_rest, input_precision="ieee")
    skip_rows = skip_ptr + h * stride_sh + w * stride_sw
    out_rows = out_ptr + h * stride_oh + w * stride_ow
    store_with_skip(
        acc, o, in_image, skip_rows, out_rows, bias_ptr, bias_ptr, bias_ptr, out_channels,
        stride_sc, stride_oc, stride_b, 0, 0, SKIP,
    )  # fmt: skip
    if REST > 0:
        store_with_skip(
            acc_rest, o_rest, in_image, skip_rows, out_rows, bias_ptr, bias_ptr, bias_ptr, out_channels,
            stride_sc, stride_oc, stride_b, 0, 0, SKIP,
        )  # fmt: skip


def _space(name: str, configs: tuple[Config, ...], channels: int) -> Space:
    def live(c: Config) -> int:
        return c["TILE_H"] * c["TILE_W"] * (channels + 3 * c["BLOCK_E"])

    def shared(c: Config, size: int) -> int:
        return c["BLOCK_E"] * (c["TILE_H"] * c["TILE_W"] + c.num_stages * channels) * size

    return Space(f"conv_ffn.{name}", configs, live, shared)


# Output channels per program. In 16 bits: 64 beside 64 pixels' taps (128 spill on sm_80); calls with more do not use
# this kernel. In float32: 320 in two accumulators beside 16 pixels' taps; with more, GELU is computed once per panel.
WIDEST, WIDEST_FLOAT, PANEL_FLOAT = 64, 320, 256

# For 16-bit types, for float32 up to 128 channels, and for float32 beyond, whose operands take twice the registers and
# shared memory. 64 pixels by 4 warps: a warp's taps and GELU serve all of its sums. 8 warps side by side along the
# channels would each recompute them: 331 instructions per hidden element instead of 78 (counted for sm_90).
HALF = _space(
    "half",
    (
        config(4, 2, TILE_H=8, TILE_W=8, BLOCK_E=32),
        config(8, 2, TILE_H=8, TILE_W=16, BLOCK_E=32),
        config(4, 2, TILE_H=4, TILE_W=8, BLOCK_E=32),
    ),
    WIDEST,
)
NARROW_FLOAT = _space(
    "narrow_float",
    (
        config(8, 1, TILE_H=8, TILE_W=8, BLOCK_E=16),
        config(4, 1, TILE_H=4, TILE_W=8, BLOCK_E=16),
    ),
    128,
)
WIDE_FLOAT = _space(
    "wide_float",
    (
        config(8, 1, TILE_H=4, TILE_W=4, BLOCK_E=16),
        config(8, 1, TILE_H=4, TILE_W=8, BLOCK_E=16),
    ),
    320,
)


def forward(
    x: torch.Tensor,
    fc1_weight: torch.Tensor,
    fc1_bias: torch.Tensor,
    dw_weight: torch.Tensor,
    dw_bias: torch.Tensor,
    fc2_weight: torch.Tensor,
    fc2_bias: torch.Tensor,
    residual: bool,
) -> torch.Tensor:
    """See `ops.conv_ffn.op`."""
    n, _, h, w = x.shape
    e, co = fc1_weight.shape[0], fc2_weight.shape[0]
    out = memory_format.empty_like(x, channels=co)
    if out.numel() == 0:
        return out
    hidden, is_float = x.new_empty((n, h, w, e)), x.dtype == torch.float32
    wide = pointwise(x, fc1_weight[:, :, 0, 0], fc1_bias, hidden.permute(0, 3, 1, 2))
    if not is_float and co > WIDEST:
        mixed = torch.ops.segnext_kernels.dwconv_gelu(wide, dw_weight, dw_bias)
        return pointwise(mixed, fc2_weight[:, :, 0, 0], fc2_bias, out, skip=x if residual else None)

    def run(c: Config) -> torch.Tensor:
        tiles = n * triton.cdiv(h, c["TILE_H"]) * triton.cdiv(w, c["TILE_W"])
        first, rest = _panel(co, tiles, is_float)
        launch.start(
            depthwise_product_kernel, (tiles * triton.cdiv(co, first + rest),),
            hidden, dw_weight, dw_bias, fc2_weight, fc2_bias, x if residual else out, out, h, w, e, co,
            dw_weight.stride(0), *dw_weight.stride()[2:], dw_bias.stride(0), *fc2_weight.stride()[:2],
            fc2_bias.stride(0), *(x if residual else out).stride(), *out.stride(),
            config=c, SKIP="skip" if residual else "none", FIRST=first, REST=rest,
        )  # fmt: skip
        return out

    space = HALF if not is_float else NARROW_FLOAT if co <= 128 else WIDE_FLOAT
    return tuning.tuned(space, size_class(hidden.permute(0, 3, 1, 2), str(co)), x, run)


def _panel(channels: int, tiles: int, is_float: bool) -> tuple[int, int]:
    """Output channels of a program, as `halves`: as many as fit; fewer, but 64 or more, if programs are too few."""
    if not is_float:
        return max(16, triton.next_power_of_2(channels)), 0
    first, rest = halves(channels)
    if first + rest > WIDEST_FLOAT:
        first, rest = PANEL_FLOAT, 0
    while first > 64 and tiles * triton.cdiv(channels, first + rest) < MULTIPROCESSORS:
        first, rest = (first, 0) if rest else (first // 2, 0)
    return first, rest
