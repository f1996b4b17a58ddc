"""1x1 convolutions in Triton: a matrix product over pixels with optional multiplier, bias, activation and gate.

    out[p, o] = act(sum_i (x * multiplier)[p, i] W[o, i] + b[o]) * gate[p, o]     (or + skip[p, o] scale[o] + shift[o])

The gradient of the weight is here too.

Tiling: a program makes BLOCK_P pixels by BLOCK_N output channels in float32 and loops over the input channels in steps
of BLOCK_K. Programs of the same pixel tile are neighbours, so all but the first read x from L2. float16 and bfloat16
use the tensor cores; float32 is multiplied as float32 ("ieee"), never as TF32.

Pixels: if the tensors' strides allow it, images and rows merge into one axis with one stride (channels_last: all of N H
W; contiguous: H W of each image). Otherwise a division separates the rows.

Model for an H200, P pixels, e bytes per element: 2 P Ci Co FLOP; e (P Ci + P Co + Ci Co) bytes, e P Co more for a gate
or a skip, e P Ci more for a multiplier. At SegNeXt's widths (32 to 512) that is 16 to 256 FLOP per byte in bfloat16:
memory is the bound. The weight's gradient: 2 P Ci Co FLOP, e P (2 Co + Ci) bytes, 8 S (Ci + 1) Co bytes for S partial
sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.gelu import gelu
from segnext_kernels.triton.tuning import Config, Space, config, size_class

MULTIPROCESSORS = 132  # of an H200; they decide into how many parts work is split
PROGRAMS = 2 * MULTIPROCESSORS


@triton.jit
def pixel_offsets(p, width, stride_h, stride_w, FLAT: tl.constexpr):
    """Offsets of the pixels p (int64) of one image. FLAT: stride_w is the stride of all its pixels."""
    return p * stride_w if FLAT else (p // width) * stride_h + (p % width) * stride_w


@triton.jit
def pointwise_kernel(
    x_ptr, multiplier_ptr, weight_ptr, bias_ptr, side_ptr, scale_ptr, shift_ptr, out_ptr,
    pixels, width, in_channels, out_channels,
    stride_xn, stride_xc, stride_xh, stride_xw,
    stride_mn, stride_mc, stride_mh, stride_mw,
    stride_sn, stride_sc, stride_sh, stride_sw,
    stride_on, stride_oc, stride_oh, stride_ow,
    stride_wo, stride_wi, stride_b, stride_scale, stride_shift,
    ACT: tl.constexpr, FLAT: tl.constexpr, MULTIPLIER: tl.constexpr, BIAS: tl.constexpr, SIDE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    panels = tl.cdiv(out_channels, BLOCK_N)
    tiles = tl.cdiv(pixels, BLOCK_P)
    program = tl.program_id(0)
    panel = program % panels
    tile = (program // panels) % tiles
    image = (program // panels // tiles).to(tl.int64)

    p = tile.to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    o = (panel * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    k = tl.arange(0, BLOCK_K).to(tl.int64)
    in_image = p < pixels
    in_panel = o < out_channels
    x_rows = x_ptr + image * stride_xn + pixel_offsets(p, width, stride_xh, stride_xw, FLAT)
    if MULTIPLIER:
        multiplier_rows = (
            multiplier_ptr + image * stride_mn + pixel_offsets(p, width, stride_mh, stride_mw, FLAT)
        )
    acc = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    for start in range(0, in_channels, BLOCK_K):
        i = start + k
        x_mask = in_image[:, None] & (i < in_channels)[None, :]
        x = tl.load(x_rows[:, None] + (i * stride_xc)[None, :], mask=x_mask, other=0.0)
        if MULTIPLIER:
            by = tl.load(multiplier_rows[:, None] + (i * stride_mc)[None, :], mask=x_mask, other=0.0)
            x = (x.to(tl.float32) * by.to(tl.float32)).to(x_ptr.dtype.element_ty)
        x = x.to(weight_ptr.dtype.element_ty)  # pixels may be float32 where the weight has low precision
        w = tl.load(
            weight_ptr + (i * stride_wi)[:, None] + (o * stride_wo)[None, :],
            mask=(i < in_channels)[:, None] & in_panel[None, :],
            other=0.0,
        )
        acc = tl.dot(x, w, acc, input_precision="ieee")
    if BIAS:
        acc += tl.load(bias_ptr + o * stride_b, mask=in_panel, other=0.0).to(tl.float32)[None, :]
    if ACT == "relu":
        acc = tl.where(acc < 0.0, 0.0, acc)  # keeps NaN, as PyTorch does
    if ACT == "gelu":
        acc = gelu(acc)
    mask = in_image[:, None] & in_panel[None, :]
    if SIDE != "none":
        side_rows = side_ptr + image * stride_sn + pixel_offsets(p, width, stride_sh, stride_sw, FLAT)
        side = tl.load(side_rows[:, None] + (o * stride_sc)[None, :], mask=mask, other=0.0).to(tl.float32)
        if SIDE == "affine":
            scale = tl.load(scale_ptr + o * stride_scale, mask=in_panel, other=0.0).to(tl.float32)
            shift = tl.load(shift_ptr + o * stride_shift, mask=in_panel, other=0.0).to(tl.float32)
            side = side * scale[None, :] + shift[None, :]
        acc = acc * side if SIDE == "gate" else acc + side
    out_rows = out_ptr + image * stride_on + pixel_offsets(p, width, stride_oh, stride_ow, FLAT)
    tl.store(out_rows[:, None] + (o * stride_oc)[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def weight_gradient_kernel(
    grad_ptr, multiplier_ptr, x_ptr, partial_ptr,
    images, pixels, width, in_channels, out_channels, tiles_per_split,
    stride_gn, stride_gc, stride_gh, stride_gw,
    stride_mn, stride_mc, stride_mh, stride_mw,
    stride_xn, stride_xc, stride_xh, stride_xw,
    FLAT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One split's partial weight gradient, sum_p (grad * multiplier)[p, o] x[p, i], and its partial bias gradient."""
    panels = tl.cdiv(out_channels, BLOCK_N)
    columns = tl.cdiv(in_channels, BLOCK_K)
    tiles = tl.cdiv(pixels, BLOCK_P)
    program = tl.program_id(0)
    panel = program % panels
    column = (program // panels) % columns
    split = program // panels // columns

    o = (panel * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    i = (column * BLOCK_K + tl.arange(0, BLOCK_K)).to(tl.int64)
    in_panel = o < out_channels
    in_column = i < in_channels
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    bias = tl.zeros((BLOCK_N,), tl.float32)
    last = tl.minimum((split + 1) * tiles_per_split, images * tiles)
    for index in range(split * tiles_per_split, last):
        image = (index // tiles).to(tl.int64)
        p = (index % tiles).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
        in_image = p < pixels
        mask = in_image[:, None] & in_panel[None, :]
        grad_rows = grad_ptr + image * stride_gn + pixel_offsets(p, width, stride_gh, stride_gw, FLAT)
        by_rows = multiplier_ptr + image * stride_mn + pixel_offsets(p, width, stride_mh, stride_mw, FLAT)
        x_rows = x_ptr + image * stride_xn + pixel_offsets(p, width, stride_xh, stride_xw, FLAT)
        grad = tl.load(grad_rows[:, None] + (o * stride_gc)[None, :], mask=mask, other=0.0)
        by = tl.load(by_rows[:, None] + (o * stride_mc)[None, :], mask=mask, other=0.0)
        x = tl.load(
            x_rows[:, None] + (i * stride_xc)[None, :],
            mask=in_image[:, None] & in_column[None, :],
            other=0.0,
        )
        grad = (grad.to(tl.float32) * by.to(tl.float32)).to(grad_ptr.dtype.element_ty)
        acc = tl.dot(tl.trans(grad), x, acc, input_precision="ieee")
        bias += tl.sum(grad.to(tl.float32), 0)
    row = partial_ptr + split.to(tl.int64) * out_channels * (in_channels + 1)
    tl.store(row + (o * in_channels)[:, None] + i[None, :], acc, mask=in_panel[:, None] & in_column[None, :])
    if column == 0:
        tl.store(row + out_channels * in_channels + o, bias, mask=in_panel)


@triton.jit
def sum_splits_kernel(
    partial_ptr, weight_ptr, bias_ptr, splits, in_channels, out_channels, BIAS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Sum the splits' rows, always in the same order. A row holds weight (Co, Ci), then bias (Co,)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    weights = out_channels * in_channels
    count = weights + out_channels
    acc = tl.zeros((BLOCK,), tl.float32)
    for split in range(0, splits):
        acc += tl.load(partial_ptr + split * count + at, mask=at < count, other=0.0)
    tl.store(weight_ptr + at, acc.to(weight_ptr.dtype.element_ty), mask=at < weights)
    if BIAS:
        is_bias = (at >= weights) & (at < count)
        tl.store(bias_ptr + (at - weights), acc.to(bias_ptr.dtype.element_ty), mask=is_bias)


@dataclass(frozen=True)
class Pixels:
    """How a kernel addresses the pixels of tensors with equal (N, ., H, W).

    Attributes:
        images, pixels: images, and pixels per image; all images merge into one if all strides allow it.
        width: W.
        flat: whether, in each tensor, the pixels of an image are one axis with one stride.
        strides: of each tensor, (N, C, H, W); if flat, the last one is the stride of that axis.
    """

    images: int
    pixels: int
    width: int
    flat: bool
    strides: tuple[tuple[int, int, int, int], ...]

    @staticmethod
    def of(*tensors: torch.Tensor) -> Pixels:
        """For tensors with equal (N, ., H, W)."""
        n, _, h, w = tensors[0].shape
        flat = h == 1 or w == 1 or all(t.stride(2) == w * t.stride(3) for t in tensors)
        steps = [t.stride(2) if w == 1 else t.stride(3) for t in tensors]
        one = flat and (n == 1 or all(t.stride(0) == h * w * s for t, s in zip(tensors, steps, strict=True)))
        strides = tuple(
            (t.stride(0), t.stride(1), t.stride(2), step if flat else t.stride(3))
            for t, step in zip(tensors, steps, strict=True)
        )
        return Pixels(1 if one else n, n * h * w if one else h * w, w, flat, strides)


def _product_live(c: Config) -> int:
    return c["BLOCK_P"] * (c["BLOCK_N"] + c["BLOCK_K"] // 2)


def _product_shared(c: Config, size: int) -> int:
    return c.num_stages * (c["BLOCK_P"] + c["BLOCK_N"]) * c["BLOCK_K"] * size


# Warp instructions per element of the result, counted in sm_90's machine code, and the microseconds that all of them
# take on 132 multiprocessors at SegNeXt-T's 768x1536, a lower bound. GELU is 29 of them.
POINTWISE = Space(
    "pointwise.forward",  # proj_in, 160 and 256 channels: 68 (2.1 us), 64 (1.2)
    (
        config(4, 3, BLOCK_P=64, BLOCK_N=64, BLOCK_K=32),
        config(4, 3, BLOCK_P=128, BLOCK_N=64, BLOCK_K=64),
        config(8, 3, BLOCK_P=128, BLOCK_N=128, BLOCK_K=64),
        config(4, 3, BLOCK_P=128, BLOCK_N=32, BLOCK_K=32),
        config(4, 4, BLOCK_P=32, BLOCK_N=64, BLOCK_K=64),
        config(4, 4, BLOCK_P=64, BLOCK_N=64, BLOCK_K=64),
        config(4, 3, BLOCK_P=64, BLOCK_N=128, BLOCK_K=64),
        config(4, 4, BLOCK_P=32, BLOCK_N=32, BLOCK_K=64),
    ),
    _product_live,
    _product_shared,
)
POINTWISE_SLIM = Space(
    "pointwise.forward_slim",  # up to 32 output channels: proj_in of 32 54 (4.6 us), which 64 would pad: 94 (7.9)
    (
        config(4, 3, BLOCK_P=64, BLOCK_N=32, BLOCK_K=32),
        config(4, 3, BLOCK_P=128, BLOCK_N=32, BLOCK_K=32),
        config(4, 4, BLOCK_P=64, BLOCK_N=32, BLOCK_K=64),
    ),
    _product_live,
    _product_shared,
)
POINTWISE_LARGE = Space(
    "pointwise.forward_large",  # two tiles or more per multiprocessor: 256 with ReLU 24 (4.5 us); 64 x 64 35 (6.0)
    (
        config(4, 3, BLOCK_P=128, BLOCK_N=64, BLOCK_K=64),
        config(4, 3, BLOCK_P=64, BLOCK_N=64, BLOCK_K=32),
        config(8, 3, BLOCK_P=128, BLOCK_N=128, BLOCK_K=64),
        config(4, 4, BLOCK_P=64, BLOCK_N=64, BLOCK_K=64),
    ),
    _product_live,
    _product_shared,
)
# float32 products outside the tensor cores are unrolled into registers: larger tiles spill kilobytes of them.
POINTWISE_FLOAT = Space("pointwise.forward_float", POINTWISE.configs[:1], _product_live, _product_shared)
# The sum runs over the pixels: BLOCK_P is the step, BLOCK_N x BLOCK_K the result.
WEIGHT_GRADIENT = Space(
    "pointwise.weight_gradient",
    (
        config(4, 2, BLOCK_P=32, BLOCK_N=64, BLOCK_K=64),
        config(4, 2, BLOCK_P=64, BLOCK_N=64, BLOCK_K=64),
        config(4, 2, BLOCK_P=64, BLOCK_N=32, BLOCK_K=32),
        config(8, 2, BLOCK_P=64, BLOCK_N=128, BLOCK_K=64),
    ),
    lambda c: c["BLOCK_N"] * c["BLOCK_K"] + c["BLOCK_P"] * c["BLOCK_N"],
    lambda c, size: c.num_stages * c["BLOCK_P"] * (2 * c["BLOCK_N"] + c["BLOCK_K"]) * size,
)
WEIGHT_GRADIENT_FLOAT = Space(
    "pointwise.weight_gradient_float",
    WEIGHT_GRADIENT.configs[:1],
    WEIGHT_GRADIENT.live,
    WEIGHT_GRADIENT.shared,
)
SUM = config(4, 1, BLOCK=512)


def pointwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    act: str = "none",
    gate: torch.Tensor | None = None,
    multiplier: torch.Tensor | None = None,
    skip: torch.Tensor | None = None,
    affine: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """``act(W (x * multiplier) + bias) * gate``, or ``+ skip``, into ``out``; any strides.

    Args:
        x, multiplier: (N, Ci, H, W).
        weight: (Co, Ci); bias: (Co,).
        out, gate, skip: (N, Co, H, W); not both gate and skip. out must overlap no other tensor.
        act: "none", "relu" or "gelu".
        affine: (scale, shift) of (Co,): ``skip * scale + shift`` replaces skip.
    """
    if out.numel() == 0:
        return out
    co, ci = weight.shape
    side = skip if gate is None else gate
    kind = "gate" if gate is not None else "none" if skip is None else "skip" if affine is None else "affine"
    scale, shift = affine or (weight, weight)
    walk = Pixels.of(x, x if multiplier is None else multiplier, out if side is None else side, out)

    def run(c: Config) -> torch.Tensor:
        tiles = triton.cdiv(walk.pixels, c["BLOCK_P"]) * triton.cdiv(co, c["BLOCK_N"])
        by_x, by_multiplier, by_side, by_out = walk.strides
        launch.start(
            pointwise_kernel, (walk.images * tiles,),
            x, x if multiplier is None else multiplier, weight, weight if bias is None else bias,
            out if side is None else side, scale, shift, out,
            walk.pixels, walk.width, ci, co, *by_x, *by_multiplier, *by_side, *by_out,
            *weight.stride(), 0 if bias is None else bias.stride(0), scale.stride(0), shift.stride(0),
            config=c, ACT=act, FLAT=walk.flat,
            MULTIPLIER=multiplier is not None, BIAS=bias is not None, SIDE=kind,
        )  # fmt: skip
        return out

    space = pointwise_space(co, walk.images * walk.pixels, act, weight.dtype)
    return tuning.tuned(space, size_class(x, str(co)), x, run)


def pointwise_space(out_channels: int, pixels: int, act: str, dtype: torch.dtype) -> Space:
    """The configurations of a product with this many output channels, and pixels of all images."""
    if dtype == torch.float32:
        return POINTWISE_FLOAT
    if out_channels <= 32:
        return POINTWISE_SLIM
    is_large = pixels * out_channels >= 128 * 64 * PROGRAMS
    return (
        POINTWISE_LARGE if is_large and act != "gelu" else POINTWISE
    )  # GELU's registers halve the occupancy


def weight_gradient(
    grad: torch.Tensor,
    multiplier: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Dense gradients of [weight] or [weight, bias] of ``W x + bias`` for the gradient ``grad * multiplier``.

    Args:
        grad, multiplier: (N, Co, H, W).
        x: (N, Ci, H, W).
        weight, bias: only their shapes and dtypes matter.
    """
    co, ci = weight.shape[:2]
    grad_weight, grad_bias = weight.new_empty(weight.shape), weight.new_empty(co)
    walk = Pixels.of(grad, multiplier, x)

    def run(c: Config) -> None:
        blocks = triton.cdiv(co, c["BLOCK_N"]) * triton.cdiv(ci, c["BLOCK_K"])
        tiles = walk.images * triton.cdiv(walk.pixels, c["BLOCK_P"])
        tiles_per_split = triton.cdiv(tiles, max(1, PROGRAMS // blocks)) if tiles else 1
        splits = triton.cdiv(tiles, tiles_per_split)
        partial = torch.empty(splits * co * (ci + 1), dtype=torch.float32, device=x.device)
        by_grad, by_multiplier, by_x = walk.strides
        if splits:
            launch.start(
                weight_gradient_kernel, (blocks * splits,),
                grad, multiplier, x, partial,
                walk.images, walk.pixels, walk.width, ci, co, tiles_per_split, *by_grad, *by_multiplier, *by_x,
                config=c, FLAT=walk.flat,
            )  # fmt: skip
        launch.start(
            sum_splits_kernel, (triton.cdiv(co * (ci + 1), SUM["BLOCK"]),),
            partial, grad_weight, grad_bias, splits, ci, co, config=SUM, BIAS=bias is not None,
        )  # fmt: skip

    space = WEIGHT_GRADIENT_FLOAT if x.dtype == torch.float32 else WEIGHT_GRADIENT
    tuning.tuned(space, size_class(x, str(co)), x, run)
    return [grad_weight] if bias is None else [grad_weight, grad_bias]
