"""msca_block in Triton: three steps. The last one is two chained products, or two steps (see `is_apart`).

    u   = GELU(W_in x + b_in)                                              `triton.pointwise`
    m   = msca_conv(u)                                                     by the backend of the call
    out = x s + t + W_out ((W_mix m + b_mix) * u) + b_out                  one kernel

Tiling of the last: a program makes BLOCK_P pixels by all C channels of the result in float32. For BLOCK_J channels at a
time it computes (W_mix m + b_mix) * u in a loop over the channels of m in steps of BLOCK_K, rounds it to the dtype, as
eager PyTorch would to store it, and multiplies it into the result at once: the gated tensor is never in memory. Two
accumulators hold all of SegNeXt's widths without padding (320 = 256 + 64). float32 is multiplied as float32.

Model for an H200, P pixels, e bytes per element: proj_in 2 P C C FLOP and 2 e P C bytes; the last step 4 P C C FLOP and
4 e P C bytes (m, u, x, out). It reads m C / BLOCK_J - 1 times more from L1 or L2, and both matrices (2 e C C) once per
program from L2. Unfused: 5 e P C bytes more.

A msca_conv of its own, which made its three phases in one launch with a barrier between them and computed the halos of
its bands again, was tried and removed: by it the block took 1162 us at (1, 32, 128, 128) and 540 us at (1, 64, 64, 64),
measured on an H200 in bfloat16, where msca_conv's four Triton launches take 43.6 us at the first of these sizes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.pointwise import MULTIPROCESSORS, Pixels, pixel_offsets, pointwise
from segnext_kernels.triton.tuning import Config, Space, config, size_class


@triton.jit
def _store(
    acc, o, in_image, x_rows, out_rows, bias_ptr, scale_ptr, shift_ptr, channels,
    stride_xc, stride_oc, stride_b, stride_scale, stride_shift,
):  # fmt: skip
    """Write the channels o of a tile, with the bias and x scale + shift added."""
    known = o < channels
    mask = in_image[:, None] & known[None, :]
    bias = tl.load(bias_ptr + o * stride_b, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + o * stride_shift, mask=known, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + o * stride_scale, mask=known, other=0.0).to(tl.float32)
    x = tl.load(x_rows[:, None] + (o * stride_xc)[None, :], mask=mask, other=0.0)
    acc += x.to(tl.float32) * scale[None, :] + (bias + shift)[None, :]
    out = out_rows[:, None] + (o * stride_oc)[None, :]
    tl.store(out, acc.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gated_projection_kernel(
    m_ptr, u_ptr, x_ptr, mix_ptr, mix_bias_ptr, proj_ptr, proj_bias_ptr, scale_ptr, shift_ptr, out_ptr,
    pixels, width, channels,
    stride_mn, stride_mc, stride_mh, stride_mw, stride_un, stride_uc, stride_uh, stride_uw,
    stride_xn, stride_xc, stride_xh, stride_xw, stride_on, stride_oc, stride_oh, stride_ow,
    stride_mo, stride_mi, stride_mb, stride_po, stride_pi, stride_pb, stride_scale, stride_shift,
    FLAT: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(pixels, BLOCK_P)
    program = tl.program_id(0)
    image = (program // tiles).to(tl.int64)
    p = (program % tiles).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    in_image = p < pixels
    m_rows = m_ptr + image * stride_mn + pixel_offsets(p, width, stride_mh, stride_mw, FLAT)
    u_rows = u_ptr + image * stride_un + pixel_offsets(p, width, stride_uh, stride_uw, FLAT)
    x_rows = x_ptr + image * stride_xn + pixel_offsets(p, width, stride_xh, stride_xw, FLAT)
    out_rows = out_ptr + image * stride_on + pixel_offsets(p, width, stride_oh, stride_ow, FLAT)

    o = tl.arange(0, FIRST).to(tl.int64)
    acc = tl.zeros((BLOCK_P, FIRST), tl.float32)
    if REST > 0:
        o_rest = (FIRST + tl.arange(0, REST)).to(tl.int64)
        acc_rest = tl.zeros((BLOCK_P, REST), tl.float32)
    for start in range(0, channels, BLOCK_J):
        j = (start + tl.arange(0, BLOCK_J)).to(tl.int64)
        in_block = j < channels
        gated = tl.zeros((BLOCK_P, BLOCK_J), tl.float32)
        for inner in range(0, channels, BLOCK_K):
            k = (inner + tl.arange(0, BLOCK_K)).to(tl.int64)
            m = tl.load(
                m_rows[:, None] + (k * stride_mc)[None, :],
                mask=in_image[:, None] & (k < channels)[None, :],
                other=0.0,
            )
            mix = tl.load(
                mix_ptr + (k * stride_mi)[:, None] + (j * stride_mo)[None, :],
                mask=(k < channels)[:, None] & in_block[None, :],
                other=0.0,
            )
            gated = tl.dot(m, mix, gated, input_precision="ieee")
        gated += tl.load(mix_bias_ptr + j * stride_mb, mask=in_block, other=0.0).to(tl.float32)[None, :]
        u = tl.load(
            u_rows[:, None] + (j * stride_uc)[None, :],
            mask=in_image[:, None] & in_block[None, :],
            other=0.0,
        )
        product = (gated * u.to(tl.float32)).to(m_ptr.dtype.element_ty)
        columns = proj_ptr + (j * stride_pi)[:, None]
        mask = in_block[:, None] & (o < channels)[None, :]
        proj = tl.load(columns + (o * stride_po)[None, :], mask=mask, other=0.0)
        acc = tl.dot(product, proj, acc, input_precision="ieee")
        if REST > 0:
            mask = in_block[:, None] & (o_rest < channels)[None, :]
            proj_rest = tl.load(columns + (o_rest * stride_po)[None, :], mask=mask, other=0.0)
            acc_rest = tl.dot(product, proj_rest, acc_rest, input_precision="ieee")
    _store(
        acc, o, in_image, x_rows, out_rows, proj_bias_ptr, scale_ptr, shift_ptr, channels,
        stride_xc, stride_oc, stride_pb, stride_scale, stride_shift,
    )  # fmt: skip
    if REST > 0:
        _store(
            acc_rest, o_rest, in_image, x_rows, out_rows, proj_bias_ptr, scale_ptr, shift_ptr, channels,
            stride_xc, stride_oc, stride_pb, stride_scale, stride_shift,
        )  # fmt: skip


def _space(name: str, configs: tuple[Config, ...], channels: int) -> Space:
    def live(c: Config) -> int:
        return c["BLOCK_P"] * (channels + 2 * c["BLOCK_J"])

    def shared(c: Config, size: int) -> int:
        inner = c.num_stages * (c["BLOCK_P"] + c["BLOCK_J"]) * c["BLOCK_K"]
        return (inner + c["BLOCK_J"] * (c["BLOCK_P"] + channels)) * size

    return Space(f"msca_block.{name}", configs, live, shared)


# Warp instructions per element of the result, counted in sm_90's machine code, and the microseconds that all of them
# take on 132 multiprocessors at SegNeXt-T's 768x1536 (B's 1024x2048 from 320 channels on), a lower bound. 64 pixels use
# wgmma. Warps of a smaller tile load the same operands again, which only pays off if the programs are so few that each
# has a multiprocessor of its own. Two accumulators of 64 pixels by more than 320 channels spill.
SLIM = _space(
    "slim",  # up to 32 channels: 29 (2.8 us); 64 pixels 41 (3.5)
    (
        config(4, 2, BLOCK_P=128, BLOCK_J=32, BLOCK_K=32),
        config(4, 2, BLOCK_P=64, BLOCK_J=32, BLOCK_K=32),
        config(8, 2, BLOCK_P=128, BLOCK_J=32, BLOCK_K=32),
    ),
    32,
)
NARROW = _space(
    "narrow",  # up to 128: at 64 channels 35 (2.0 us); steps of 32 38 (2.2)
    (
        config(4, 2, BLOCK_P=64, BLOCK_J=64, BLOCK_K=64),
        config(4, 2, BLOCK_P=64, BLOCK_J=32, BLOCK_K=32),
        config(8, 2, BLOCK_P=128, BLOCK_J=64, BLOCK_K=32),
        config(4, 2, BLOCK_P=32, BLOCK_J=32, BLOCK_K=32),
    ),
    128,
)
MIDDLE = _space(
    "middle",  # up to 192: at 160 46 (2.2 us); 32 pixels on 8 warps 220 (10.4); 64 in steps of 64 spill on sm_80
    (
        config(4, 2, BLOCK_P=64, BLOCK_J=32, BLOCK_K=32),
        config(4, 2, BLOCK_P=32, BLOCK_J=32, BLOCK_K=64),
    ),
    192,
)
WIDE = _space(
    "wide",  # up to 320: 60 (5.6 us); steps of 32 84 (7.9); 32 pixels 259 (24)
    (
        config(8, 2, BLOCK_P=64, BLOCK_J=64, BLOCK_K=64),
        config(8, 2, BLOCK_P=64, BLOCK_J=32, BLOCK_K=64),
        config(8, 2, BLOCK_P=32, BLOCK_J=32, BLOCK_K=64),
    ),
    320,
)
FEW = _space(
    "few",  # up to FEW_PIXELS, 129 to 192 channels
    (
        config(4, 2, BLOCK_P=16, BLOCK_J=64, BLOCK_K=64),
        config(4, 2, BLOCK_P=32, BLOCK_J=32, BLOCK_K=64),
    ),
    192,
)
FEW_PIXELS = 16 * MULTIPROCESSORS
NARROW_FLOAT = _space(
    "narrow_float",
    (config(4, 1, BLOCK_P=32, BLOCK_J=16, BLOCK_K=32),),
    128,
)
WIDE_FLOAT = _space(
    "wide_float",
    (
        config(8, 1, BLOCK_P=16, BLOCK_J=16, BLOCK_K=16),
        config(8, 1, BLOCK_P=16, BLOCK_J=16, BLOCK_K=32),
    ),
    512,
)


def halves(channels: int) -> tuple[int, int]:
    """Two powers of two that hold all channels in registers; the second may be 0. 160 is 128 + 32.

    A tile's side is a power of two, at least 16 for the tensor cores. All of SegNeXt's widths are sums of two.
    """
    first = max(16, 1 << (channels.bit_length() - 1))
    rest = channels - first
    return first, triton.next_power_of_2(max(16, rest)) if rest > 0 else 0


def is_apart(channels: int, pixels: int, dtype: torch.dtype) -> bool:
    """Whether the last step is two products; in float32 it never is.

    It is if two accumulators cannot hold the channels beside 64 pixels, or if the channels are many and the pixels few,
    so that its programs would not fill the chip. At 320 channels the issue model says: 14 us as one kernel and 7 us as
    two products at 32x32, but 21 and 24 us at 48x96.
    """
    return dtype != torch.float32 and (channels > 320 or (channels > 192 and pixels <= FEW_PIXELS))


def space_of(channels: int, pixels: int, dtype: torch.dtype) -> Space:
    """The configurations of the last step for this many channels, and pixels of all images."""
    if dtype == torch.float32:  # operands take twice the registers and the shared memory
        return NARROW_FLOAT if channels <= 128 else WIDE_FLOAT
    if channels <= 128:
        return SLIM if channels <= 32 else NARROW
    if channels > 192:
        return WIDE
    return FEW if pixels <= FEW_PIXELS else MIDDLE


def forward(
    x: torch.Tensor,
    proj_in_weight: torch.Tensor,
    proj_in_bias: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: list[torch.Tensor],
    column_weights: list[torch.Tensor],
    row_biases: list[torch.Tensor],
    column_biases: list[torch.Tensor],
    mix_weight: torch.Tensor,
    mix_bias: torch.Tensor,
    proj_out_weight: torch.Tensor,
    proj_out_bias: torch.Tensor,
    skip_scale: torch.Tensor,
    skip_shift: torch.Tensor,
) -> torch.Tensor:
    """See `ops.msca_block.op`."""
    out = memory_format.empty_like(x)
    if x.numel() == 0:
        return out
    u = pointwise(x, proj_in_weight[:, :, 0, 0], proj_in_bias, memory_format.empty_like(x), act="gelu")
    strips = (root_weight, root_bias, row_weights, column_weights, row_biases, column_biases)
    m = torch.ops.segnext_kernels.msca_conv(u, *strips)
    n, c, h, w = x.shape
    if is_apart(c, n * h * w, x.dtype):
        gated = pointwise(m, mix_weight[:, :, 0, 0], mix_bias, memory_format.empty_like(x), gate=u)
        affine = (skip_scale, skip_shift)
        return pointwise(gated, proj_out_weight[:, :, 0, 0], proj_out_bias, out, skip=x, affine=affine)
    walk = Pixels.of(m, u, x, out)
    first, rest = halves(c)

    def run(chosen: Config) -> torch.Tensor:
        by_m, by_u, by_x, by_out = walk.strides
        launch.start(
            gated_projection_kernel, (walk.images * triton.cdiv(walk.pixels, chosen["BLOCK_P"]),),
            m, u, x, mix_weight, mix_bias, proj_out_weight, proj_out_bias, skip_scale, skip_shift, out,
            walk.pixels, walk.width, c, *by_m, *by_u, *by_x, *by_out,
            *mix_weight.stride()[:2], mix_bias.stride(0), *proj_out_weight.stride()[:2], proj_out_bias.stride(0),
            skip_scale.stride(0), skip_shift.stride(0),
            config=chosen, FLAT=walk.flat, FIRST=first, REST=rest,
        )  # fmt: skip
        return out

    return tuning.tuned(space_of(c, walk.images * walk.pixels, x.dtype), size_class(x), x, run)
