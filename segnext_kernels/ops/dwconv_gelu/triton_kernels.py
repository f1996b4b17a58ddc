"""dwconv_gelu in Triton: GELU(dw3x3(x) + b) and its gradients.

Tiling: a program has BLOCK_W pixels x BLOCK_C channels and loops over ROWS rows from the top. Each input row is loaded
at three shifts and added to the three output rows that it contributes to, which are held in registers: 3 loads per
element instead of 9, of which the cache serves all but the first.

The backward has two kernels. The first computes the convolution again (only x was saved) and y's gradient g = grad
GELU'(y), written in x's dtype as eager PyTorch would. It also computes the tile's nine sums of g x and the sum of g,
held in registers over the rows. The second is the same convolution of g with the taps reversed. One `torch.sum` adds
the tiles' sums.

Bytes, for E elements of s bytes (C channels): forward 2 s E, plus 2 / ROWS of it for rows that neighbours share (L2);
backward 5 s E (x, grad in; g out; g in, grad_x out) and 80 C bytes of sums per tile: 10 / (ROWS BLOCK_W) floats per
element. FLOPs: 18 E and a GELU forward, 54 E backward.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.gelu import gelu, gelu_derivative
from segnext_kernels.triton.tuning import Config, Space, config, size_class


@triton.jit
def _tap(weight_ptr, c, channels, stride_c, offset):
    return tl.load(weight_ptr + c * stride_c + offset, mask=c < channels, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _row(at, h, height, stride_h, stride_w, inside_left, inside, inside_right):
    """The tile's pixels of row h at the three shifts, in float32; zeros outside the image."""
    row = tl.full((1, 1), h, tl.int64)
    known = (row >= 0) & (row < height)
    at += row * stride_h
    left = tl.load(at - stride_w, mask=inside_left & known, other=0.0).to(tl.float32)
    middle = tl.load(at, mask=inside & known, other=0.0).to(tl.float32)
    right = tl.load(at + stride_w, mask=inside_right & known, other=0.0).to(tl.float32)
    return left, middle, right


@triton.jit
def _convolution_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, height, width, channels,
    stride_xn, stride_xc, stride_xh, stride_xw, stride_wc, stride_wh, stride_ww, stride_b,
    stride_on, stride_oc, stride_oh, stride_ow,
    HAS_BIAS: tl.constexpr, TURNED: tl.constexpr, GELU: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    tiles_w, tiles_h = tl.cdiv(width, BLOCK_W), tl.cdiv(height, ROWS)
    tile = tl.program_id(0)
    n = (tile // (tiles_w * tiles_h)).to(tl.int64)
    first = (tile // tiles_w) % tiles_h * ROWS
    w = (tile % tiles_w * BLOCK_W + tl.arange(0, BLOCK_W)).to(tl.int64)[:, None]
    c = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    taps_ptr = weight_ptr
    if TURNED:  # the transposed convolution
        taps_ptr += 2 * stride_wh + 2 * stride_ww
        stride_wh, stride_ww = -stride_wh, -stride_ww
    w00 = _tap(taps_ptr, c, channels, stride_wc, 0)
    w01 = _tap(taps_ptr, c, channels, stride_wc, stride_ww)
    w02 = _tap(taps_ptr, c, channels, stride_wc, 2 * stride_ww)
    w10 = _tap(taps_ptr, c, channels, stride_wc, stride_wh)
    w11 = _tap(taps_ptr, c, channels, stride_wc, stride_wh + stride_ww)
    w12 = _tap(taps_ptr, c, channels, stride_wc, stride_wh + 2 * stride_ww)
    w20 = _tap(taps_ptr, c, channels, stride_wc, 2 * stride_wh)
    w21 = _tap(taps_ptr, c, channels, stride_wc, 2 * stride_wh + stride_ww)
    w22 = _tap(taps_ptr, c, channels, stride_wc, 2 * stride_wh + 2 * stride_ww)
    begin = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    if HAS_BIAS:
        begin += _tap(bias_ptr, c, channels, stride_b, 0)
    c = c[None, :]
    at = x_ptr + n * stride_xn + w * stride_xw + c * stride_xc
    out_at = out_ptr + n * stride_on + w * stride_ow + c * stride_oc
    inside = (w < width) & (c < channels)
    inside_left = (w >= 1) & (w < width + 1) & (c < channels)
    inside_right = (w < width - 1) & (c < channels)

    above, here = begin, begin  # partial sums of the output rows h - 1 and h
    for h in range(first - 1, tl.minimum(first + ROWS, height) + 1):
        left, middle, right = _row(at, h, height, stride_xh, stride_xw, inside_left, inside, inside_right)
        done = above + w20 * left + w21 * middle + w22 * right
        above = here + w10 * left + w11 * middle + w12 * right
        here = begin + w00 * left + w01 * middle + w02 * right
        if h > first:
            if GELU:
                done = gelu(done)
            row = tl.full((1, 1), h - 1, tl.int64)
            tl.store(out_at + row * stride_oh, done.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_kernel(
    grad_ptr, x_ptr, weight_ptr, bias_ptr, grad_y_ptr, sums_ptr, height, width, channels,
    stride_gn, stride_gc, stride_gh, stride_gw, stride_xn, stride_xc, stride_xh, stride_xw,
    stride_wc, stride_wh, stride_ww, stride_b, stride_yn, stride_yc, stride_yh, stride_yw,
    HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    tiles_w, tiles_h = tl.cdiv(width, BLOCK_W), tl.cdiv(height, ROWS)
    tile = tl.program_id(0)
    n = (tile // (tiles_w * tiles_h)).to(tl.int64)
    first = (tile // tiles_w) % tiles_h * ROWS
    w = (tile % tiles_w * BLOCK_W + tl.arange(0, BLOCK_W)).to(tl.int64)[:, None]
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    w00 = _tap(weight_ptr, channel, channels, stride_wc, 0)
    w01 = _tap(weight_ptr, channel, channels, stride_wc, stride_ww)
    w02 = _tap(weight_ptr, channel, channels, stride_wc, 2 * stride_ww)
    w10 = _tap(weight_ptr, channel, channels, stride_wc, stride_wh)
    w11 = _tap(weight_ptr, channel, channels, stride_wc, stride_wh + stride_ww)
    w12 = _tap(weight_ptr, channel, channels, stride_wc, stride_wh + 2 * stride_ww)
    w20 = _tap(weight_ptr, channel, channels, stride_wc, 2 * stride_wh)
    w21 = _tap(weight_ptr, channel, channels, stride_wc, 2 * stride_wh + stride_ww)
    w22 = _tap(weight_ptr, channel, channels, stride_wc, 2 * stride_wh + 2 * stride_ww)
    begin = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    if HAS_BIAS:
        begin += _tap(bias_ptr, channel, channels, stride_b, 0)
    c = channel[None, :]
    at = x_ptr + n * stride_xn + w * stride_xw + c * stride_xc
    grad_at = grad_ptr + n * stride_gn + w * stride_gw + c * stride_gc
    grad_y_at = grad_y_ptr + n * stride_yn + w * stride_yw + c * stride_yc
    inside = (w < width) & (c < channels)
    inside_left = (w >= 1) & (w < width + 1) & (c < channels)
    inside_right = (w < width - 1) & (c < channels)

    # Rows h - 1 (a), h (b) and h + 1 (c) at three shifts. The rows above the loop are loaded before it, not filled with
    # one tensor of zeros: Triton (3.6 to 3.9, not its interpreter) finds the variables that a loop carries by visiting
    # the body once with their first values. After a = b a variable that began as the same tensor as b looks unchanged,
    # so it would keep its first value in every iteration.
    a0, a1, a2 = _row(at, first - 1, height, stride_xh, stride_xw, inside_left, inside, inside_right)
    b0, b1, b2 = _row(at, first, height, stride_xh, stride_xw, inside_left, inside, inside_right)
    zero = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    s00, s01, s02, s10, s11, s12 = zero, zero, zero, zero, zero, zero
    s20, s21, s22, s = zero, zero, zero, zero
    for h in range(first, tl.minimum(first + ROWS, height)):
        c0, c1, c2 = _row(at, h + 1, height, stride_xh, stride_xw, inside_left, inside, inside_right)
        y = begin + w00 * a0 + w01 * a1 + w02 * a2 + w10 * b0 + w11 * b1 + w12 * b2
        y += w20 * c0 + w21 * c1 + w22 * c2
        row = tl.full((1, 1), h, tl.int64)
        # zero outside the image, because the sums cover whole tiles
        grad = tl.load(grad_at + row * stride_gh, mask=inside, other=0.0).to(tl.float32)
        g = tl.where(inside, grad * gelu_derivative(y), 0.0)
        tl.store(grad_y_at + row * stride_yh, g.to(grad_y_ptr.dtype.element_ty), mask=inside)
        s00, s01, s02 = s00 + g * a0, s01 + g * a1, s02 + g * a2
        s10, s11, s12 = s10 + g * b0, s11 + g * b1, s12 + g * b2
        s20, s21, s22 = s20 + g * c0, s21 + g * c1, s22 + g * c2
        s += g
        a0, a1, a2, b0, b1, b2 = b0, b1, b2, c0, c1, c2

    # (tiles, 10, channels)
    sums = sums_ptr + tile.to(tl.int64) * 10 * channels + channel
    is_channel = channel < channels
    tl.store(sums, tl.sum(s00, 0), mask=is_channel)
    tl.store(sums + channels, tl.sum(s01, 0), mask=is_channel)
    tl.store(sums + 2 * channels, tl.sum(s02, 0), mask=is_channel)
    tl.store(sums + 3 * channels, tl.sum(s10, 0), mask=is_channel)
    tl.store(sums + 4 * channels, tl.sum(s11, 0), mask=is_channel)
    tl.store(sums + 5 * channels, tl.sum(s12, 0), mask=is_channel)
    tl.store(sums + 6 * channels, tl.sum(s20, 0), mask=is_channel)
    tl.store(sums + 7 * channels, tl.sum(s21, 0), mask=is_channel)
    tl.store(sums + 8 * channels, tl.sum(s22, 0), mask=is_channel)
    tl.store(sums + 9 * channels, tl.sum(s, 0), mask=is_channel)


def _spaces(name: str, rows: int, values: int) -> dict[bool, Space]:
    """Spaces for channels_last (True) and contiguous, with tiles of ``rows`` rows holding ``values`` per place.

    Four places of a tile per thread make loads of 8 bytes in 16 bits and of 16 bytes in float32, along the innermost
    axis. 64 channels or pixels make whole 128-byte lines. More rows waste less on halos, but leave few programs for a
    map of 16 x 16 pixels.
    """

    def live(config: Config) -> int:
        return values * config["BLOCK_W"] * config["BLOCK_C"]

    nhwc = (
        config(ROWS=rows, BLOCK_W=8, BLOCK_C=64),
        config(ROWS=2 * rows, BLOCK_W=8, BLOCK_C=64),
        config(ROWS=rows // 2, BLOCK_W=4, BLOCK_C=64, num_warps=2),
        config(ROWS=rows, BLOCK_W=16, BLOCK_C=32),
    )
    nchw = (
        config(ROWS=rows, BLOCK_W=64, BLOCK_C=8),
        config(ROWS=2 * rows, BLOCK_W=64, BLOCK_C=8),
        config(ROWS=rows // 2, BLOCK_W=64, BLOCK_C=4, num_warps=2),
        config(ROWS=rows, BLOCK_W=16, BLOCK_C=32),
    )
    return {True: Space(f"{name}.nhwc", nhwc, live), False: Space(f"{name}.nchw", nchw, live)}


FORWARD = _spaces("dwconv_gelu.forward", rows=8, values=3 + 3 + 9)
GRADIENT = _spaces("dwconv_gelu.gradient", rows=16, values=9 + 10 + 9)
TRANSPOSED = _spaces("dwconv_gelu.transposed", rows=8, values=3 + 3 + 9)


def _grid(x: torch.Tensor, config: Config) -> tuple[int, int]:
    n, c, h, w = x.shape
    tiles = n * triton.cdiv(h, config["ROWS"]) * triton.cdiv(w, config["BLOCK_W"])
    return tiles, triton.cdiv(c, config["BLOCK_C"])


def _convolution(
    spaces: dict[bool, Space],
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    turned: bool = False,
    activation: bool = False,
) -> torch.Tensor:
    out = memory_format.empty_like(x)
    if x.numel() == 0:
        return out
    _, c, h, w = x.shape

    def run(config: Config) -> torch.Tensor:
        launch.start(
            _convolution_kernel, _grid(x, config), x, weight, x if bias is None else bias, out, h, w, c,
            *x.stride(), weight.stride(0), *weight.stride()[2:], 0 if bias is None else bias.stride(0), *out.stride(),
            config=config, HAS_BIAS=bias is not None, TURNED=turned, GELU=activation,
        )  # fmt: skip
        return out

    return tuning.tuned(spaces[memory_format.is_channels_last(x)], size_class(x), x, run)


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """See `ops.dwconv_gelu.op`."""
    return _convolution(FORWARD, x, weight, bias, activation=True)


def backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    """Gradients of x, weight, [bias]."""
    _, c, h, w = x.shape
    grad_y = memory_format.empty_like(x)

    def run(config: Config) -> torch.Tensor:
        grid = _grid(x, config)
        sums = torch.empty((grid[0], 10, c), dtype=torch.float32, device=x.device)
        launch.start(
            _gradient_kernel, grid, grad, x, weight, x if bias is None else bias, grad_y, sums, h, w, c,
            *grad.stride(), *x.stride(), weight.stride(0), *weight.stride()[2:],
            0 if bias is None else bias.stride(0), *grad_y.stride(), config=config, HAS_BIAS=bias is not None,
        )  # fmt: skip
        return sums.sum(0)

    if x.numel() == 0:
        sums = torch.zeros((10, c), dtype=torch.float32, device=x.device)
    else:
        sums = tuning.tuned(GRADIENT[memory_format.is_channels_last(x)], size_class(x), x, run)
    grad_x = _convolution(TRANSPOSED, grad_y, weight, None, turned=True)
    grad_weight = weight.new_empty(weight.shape)
    grad_weight.view(c, 9).copy_(sums[:9].T)
    return [grad_x, grad_weight] if bias is None else [grad_x, grad_weight, sums[9].to(bias.dtype, copy=True)]
