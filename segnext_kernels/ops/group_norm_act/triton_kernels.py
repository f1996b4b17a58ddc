"""group_norm_act in Triton: act(GN(x) + residual) and its gradients.

Maths: with xhat = (x - mean) rstd, y = xhat weight + bias + residual. Backward, with d = the part of grad that ReLU
passes on, A_c = sum d and B_c = sum d xhat over the pixels, and means over a group of M values:
    grad_x = rstd (d weight - mean(weight_c A_c) - xhat mean(weight_c B_c)),
    grad_weight = sum_n B, grad_bias = sum_n A.

Tiling: tiles of BLOCK_P pixels x BLOCK_C channels, independent of the groups. A tile's means and squared deviations are
computed per channel, in two passes over registers, so an offset of the whole input costs no digits. A small kernel
joins the tiles and channels of a group in two passes over these few numbers, in a fixed order. Then a pass normalises.

Bytes, for E elements of s bytes: forward 3 s E (x twice, the second time from L2 if it fits; out), s E more with a
residual, 8 / BLOCK_P bytes per element for the tiles' statistics; backward 8 s E (x three times, grad and out twice,
grad_x), s E more with a residual. FLOPs are negligible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.tuning import Config, Space, config, size_class


@triton.jit
def _offsets(pixel, channel, width, stride_c, stride_h, stride_w):
    return (pixel // width) * stride_h + (pixel % width) * stride_w + channel * stride_c


@triton.jit
def _moments_kernel(
    x_ptr, moments_ptr, pixels, width, channels, stride_n, stride_c, stride_h, stride_w,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Per tile and channel: mean, and sum of squared deviations from it; (N, tiles, 2, C)."""
    tiles = tl.cdiv(pixels, BLOCK_P)
    n, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    p = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)[:, None]
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c = channel.to(tl.int64)[None, :]
    inside = (p < pixels) & (c < channels)
    at = x_ptr + n * stride_n + _offsets(p, c, width, stride_c, stride_h, stride_w)
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(pixels - tile * BLOCK_P, BLOCK_P).to(tl.float32)
    mean = tl.sum(x, 0) / count
    deviation = tl.where(inside, x - mean[None, :], 0.0)
    moments = moments_ptr + (n * tiles + tile) * 2 * channels + channel
    tl.store(moments, mean, mask=channel < channels)
    tl.store(moments + channels, tl.sum(deviation * deviation, 0), mask=channel < channels)


@triton.jit
def _statistics_kernel(
    moments_ptr, statistics_ptr, tiles, tile_pixels, pixels, channels, groups, eps,
    BLOCK_T: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation of each group, (N, groups, 2), from the moments of its tiles and channels."""
    n, g = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups
    size = channels // groups
    j = tl.arange(0, BLOCK_G)[None, :]
    moments = moments_ptr + n * tiles * 2 * channels + g * size + j
    total = tl.zeros((BLOCK_T, BLOCK_G), tl.float32)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)[:, None]
        inside = (t < tiles) & (j < size)
        count = tl.minimum(pixels - t * tile_pixels, tile_pixels).to(tl.float32)
        mean = tl.load(moments + t.to(tl.int64) * 2 * channels, mask=inside, other=0.0)
        total += mean * count
    values = size * tl.full((), pixels, tl.float32)  # Triton makes an argument of 1 a constant
    group_mean = tl.sum(tl.sum(total, 1), 0) / values
    squares = tl.zeros((BLOCK_T, BLOCK_G), tl.float32)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)[:, None]
        inside = (t < tiles) & (j < size)
        count = tl.minimum(pixels - t * tile_pixels, tile_pixels).to(tl.float32)
        at = moments + t.to(tl.int64) * 2 * channels
        offset = tl.load(at, mask=inside, other=0.0) - group_mean
        deviations = tl.load(at + channels, mask=inside, other=0.0)
        squares += tl.where(inside, deviations + offset * offset * count, 0.0)
    variance = tl.sum(tl.sum(squares, 1), 0) / values
    statistics = statistics_ptr + (n * groups + g) * 2
    tl.store(statistics, group_mean)
    tl.store(statistics + 1, 1.0 / tl.sqrt_rn(variance + eps))


@triton.jit
def _apply_kernel(
    x_ptr, statistics_ptr, weight_ptr, bias_ptr, residual_ptr, out_ptr, pixels, width, channels, groups,
    stride_xn, stride_xc, stride_xh, stride_xw, stride_w, stride_b,
    stride_rn, stride_rc, stride_rh, stride_rw, stride_on, stride_oc, stride_oh, stride_ow,
    HAS_RESIDUAL: tl.constexpr, RELU: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(pixels, BLOCK_P)
    n, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    p = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)[:, None]
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = channel < channels
    c = channel.to(tl.int64)[None, :]
    inside = (p < pixels) & (c < channels)
    statistics = statistics_ptr + (n * groups + channel // (channels // groups)) * 2
    mean = tl.load(statistics, mask=is_channel, other=0.0)[None, :]
    rstd = tl.load(statistics + 1, mask=is_channel, other=0.0)[None, :]
    weight = tl.load(weight_ptr + channel * stride_w, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + channel * stride_b, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    at = x_ptr + n * stride_xn + _offsets(p, c, width, stride_xc, stride_xh, stride_xw)
    y = (tl.load(at, mask=inside, other=0.0).to(tl.float32) - mean) * rstd * weight + bias
    if HAS_RESIDUAL:
        at = residual_ptr + n * stride_rn + _offsets(p, c, width, stride_rc, stride_rh, stride_rw)
        y += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        y = tl.where(y < 0, 0.0, y)  # keeps NaN, as PyTorch does
    at = out_ptr + n * stride_on + _offsets(p, c, width, stride_oc, stride_oh, stride_ow)
    tl.store(at, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _let_through(grad_ptr, out_ptr, inside, RELU: tl.constexpr):
    """The gradient that reaches the sum of norm and residual."""
    grad = tl.load(grad_ptr, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        out = tl.load(out_ptr, mask=inside, other=0.0).to(tl.float32)
        grad = tl.where(out <= 0, 0.0, grad)  # a NaN passes the gradient on, as in PyTorch
    return grad


@triton.jit
def _sums_kernel(
    grad_ptr, x_ptr, out_ptr, statistics_ptr, sums_ptr, pixels, width, channels, groups,
    stride_gn, stride_gc, stride_gh, stride_gw, stride_xn, stride_xc, stride_xh, stride_xw,
    stride_on, stride_oc, stride_oh, stride_ow,
    RELU: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Per tile and channel: sum of d, and of d xhat; (N, tiles, 2, C)."""
    tiles = tl.cdiv(pixels, BLOCK_P)
    n, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    p = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)[:, None]
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = channel < channels
    c = channel.to(tl.int64)[None, :]
    inside = (p < pixels) & (c < channels)
    statistics = statistics_ptr + (n * groups + channel // (channels // groups)) * 2
    mean = tl.load(statistics, mask=is_channel, other=0.0)[None, :]
    rstd = tl.load(statistics + 1, mask=is_channel, other=0.0)[None, :]
    grad_at = grad_ptr + n * stride_gn + _offsets(p, c, width, stride_gc, stride_gh, stride_gw)
    out_at = out_ptr + n * stride_on + _offsets(p, c, width, stride_oc, stride_oh, stride_ow)
    d = _let_through(grad_at, out_at, inside, RELU)
    at = x_ptr + n * stride_xn + _offsets(p, c, width, stride_xc, stride_xh, stride_xw)
    normalised = (tl.load(at, mask=inside, other=0.0).to(tl.float32) - mean) * rstd
    sums = sums_ptr + (n * tiles + tile) * 2 * channels + channel
    tl.store(sums, tl.sum(d, 0), mask=is_channel)
    tl.store(sums + channels, tl.sum(tl.where(inside, d * normalised, 0.0), 0), mask=is_channel)


@triton.jit
def _join_kernel(
    sums_ptr, weight_ptr, joined_ptr, means_ptr, tiles, pixels, channels, groups, stride_w,
    BLOCK_T: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Join the tiles' sums: per channel (N, 2, C), and as weighted means per group (N, groups, 2)."""
    n, g = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups
    size = channels // groups
    j = tl.arange(0, BLOCK_G)
    sums = sums_ptr + n * tiles * 2 * channels + g * size + j[None, :]
    grads = tl.zeros((BLOCK_T, BLOCK_G), tl.float32)
    products = tl.zeros((BLOCK_T, BLOCK_G), tl.float32)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)[:, None]
        inside = (t < tiles) & (j < size)[None, :]
        at = sums + t.to(tl.int64) * 2 * channels
        grads += tl.load(at, mask=inside, other=0.0)
        products += tl.load(at + channels, mask=inside, other=0.0)
    grad, product = tl.sum(grads, 0), tl.sum(products, 0)
    joined = joined_ptr + n * 2 * channels + g * size + j
    tl.store(joined, grad, mask=j < size)
    tl.store(joined + channels, product, mask=j < size)
    weight = tl.load(weight_ptr + (g * size + j) * stride_w, mask=j < size, other=0.0).to(tl.float32)
    values = size * tl.full((), pixels, tl.float32)  # Triton makes an argument of 1 a constant
    means = means_ptr + (n * groups + g) * 2
    tl.store(means, tl.sum(weight * grad, 0) / values)
    tl.store(means + 1, tl.sum(weight * product, 0) / values)


@triton.jit
def _gradient_kernel(
    grad_ptr, x_ptr, out_ptr, statistics_ptr, means_ptr, weight_ptr, grad_x_ptr, grad_residual_ptr,
    pixels, width, channels, groups,
    stride_gn, stride_gc, stride_gh, stride_gw, stride_xn, stride_xc, stride_xh, stride_xw,
    stride_on, stride_oc, stride_oh, stride_ow, stride_w, stride_dn, stride_dc, stride_dh, stride_dw,
    HAS_RESIDUAL: tl.constexpr, RELU: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(pixels, BLOCK_P)
    n, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    p = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)[:, None]
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = channel < channels
    c = channel.to(tl.int64)[None, :]
    inside = (p < pixels) & (c < channels)
    group = (n * groups + channel // (channels // groups)) * 2
    mean = tl.load(statistics_ptr + group, mask=is_channel, other=0.0)[None, :]
    rstd = tl.load(statistics_ptr + group + 1, mask=is_channel, other=0.0)[None, :]
    mean_grad = tl.load(means_ptr + group, mask=is_channel, other=0.0)[None, :]
    mean_product = tl.load(means_ptr + group + 1, mask=is_channel, other=0.0)[None, :]
    weight = tl.load(weight_ptr + channel * stride_w, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    grad_at = grad_ptr + n * stride_gn + _offsets(p, c, width, stride_gc, stride_gh, stride_gw)
    out_at = out_ptr + n * stride_on + _offsets(p, c, width, stride_oc, stride_oh, stride_ow)
    d = _let_through(grad_at, out_at, inside, RELU)
    at = x_ptr + n * stride_xn + _offsets(p, c, width, stride_xc, stride_xh, stride_xw)
    normalised = (tl.load(at, mask=inside, other=0.0).to(tl.float32) - mean) * rstd
    grad_x = rstd * (d * weight - mean_grad - normalised * mean_product)
    to = n * stride_dn + _offsets(p, c, width, stride_dc, stride_dh, stride_dw)
    tl.store(grad_x_ptr + to, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)
    if HAS_RESIDUAL:
        tl.store(grad_residual_ptr + to, d.to(grad_residual_ptr.dtype.element_ty), mask=inside)


def _spaces(name: str, values: int) -> dict[bool, Space]:
    """Spaces for channels_last (True) and contiguous; ``values`` are held per place of a tile.

    64 channels or more along the innermost axis make whole 128-byte lines. 16 to 32 places per thread keep several
    16-byte loads in flight, which a kernel bound by memory needs.
    """

    def live(config: Config) -> int:
        return values * config["BLOCK_P"] * config["BLOCK_C"]

    nhwc = (
        config(BLOCK_P=32, BLOCK_C=64),
        config(BLOCK_P=64, BLOCK_C=64),
        config(BLOCK_P=64, BLOCK_C=64, num_warps=8),
        config(BLOCK_P=16, BLOCK_C=128),
    )
    nchw = (
        config(BLOCK_P=512, BLOCK_C=4),
        config(BLOCK_P=1024, BLOCK_C=4, num_warps=8),
        config(BLOCK_P=256, BLOCK_C=8),
        config(BLOCK_P=1024, BLOCK_C=2),
    )
    return {True: Space(f"{name}.nhwc", nhwc, live), False: Space(f"{name}.nchw", nchw, live)}


MOMENTS = _spaces("group_norm_act.moments", values=2)
APPLY = _spaces("group_norm_act.apply", values=3)
SUMS = _spaces("group_norm_act.sums", values=4)
GRADIENT = _spaces("group_norm_act.gradient", values=4)
JOINED_VALUES = 2048  # of a group's tiles and channels, loaded at once: 16 per thread


def _grid(x: torch.Tensor, config: Config) -> tuple[int, int]:
    n, c, h, w = x.shape
    return n * triton.cdiv(h * w, config["BLOCK_P"]), triton.cdiv(c, config["BLOCK_C"])


def _join_config(channels: int) -> Config:
    """For the kernels that join a group with this many channels."""
    block = triton.next_power_of_2(channels)
    return config(BLOCK_T=max(JOINED_VALUES // block, 1), BLOCK_G=block)


def _statistics(x: torch.Tensor, groups: int, eps: float) -> torch.Tensor:
    n, c, h, w = x.shape
    statistics = torch.empty((n, groups, 2), dtype=torch.float32, device=x.device)

    def run(config: Config) -> torch.Tensor:
        tiles = triton.cdiv(h * w, config["BLOCK_P"])
        moments = torch.empty((n, tiles, 2, c), dtype=torch.float32, device=x.device)
        launch.start(_moments_kernel, _grid(x, config), x, moments, h * w, w, c, *x.stride(), config=config)
        launch.start(
            _statistics_kernel, (n * groups,), moments, statistics, tiles, config["BLOCK_P"], h * w, c, groups, eps,
            config=_join_config(c // groups),
        )  # fmt: skip
        return statistics

    return tuning.tuned(MOMENTS[memory_format.is_channels_last(x)], size_class(x), x, run)


def forward(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    act: str,
) -> torch.Tensor:
    """See `ops.group_norm_act.op`."""
    out = memory_format.empty_like(x)
    if x.numel() == 0:
        return out
    _, c, h, w = x.shape
    statistics = _statistics(x, groups, eps)
    other = x if residual is None else residual

    def run(config: Config) -> torch.Tensor:
        launch.start(
            _apply_kernel, _grid(x, config), x, statistics, weight, bias, other, out, h * w, w, c, groups,
            *x.stride(), weight.stride(0), bias.stride(0), *other.stride(), *out.stride(),
            config=config, HAS_RESIDUAL=residual is not None, RELU=act == "relu",
        )  # fmt: skip
        return out

    return tuning.tuned(APPLY[memory_format.is_channels_last(x)], size_class(x), x, run)


def backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    eps: float,
    act: str,
    residual: bool,
) -> list[torch.Tensor]:
    """Gradients of x, weight, bias, [residual]."""
    n, c, h, w = x.shape
    grad_x = memory_format.empty_like(x)
    grad_residual = memory_format.empty_like(x) if residual else grad_x
    joined = torch.empty((n, 2, c), dtype=torch.float32, device=x.device)
    if x.numel():
        nhwc = memory_format.is_channels_last(x)
        statistics = _statistics(x, groups, eps)
        means = torch.empty((n, groups, 2), dtype=torch.float32, device=x.device)

        def sums(config: Config) -> None:
            tiles = triton.cdiv(h * w, config["BLOCK_P"])
            sums = torch.empty((n, tiles, 2, c), dtype=torch.float32, device=x.device)
            launch.start(
                _sums_kernel, _grid(x, config), grad, x, out, statistics, sums, h * w, w, c, groups,
                *grad.stride(), *x.stride(), *out.stride(), config=config, RELU=act == "relu",
            )  # fmt: skip
            launch.start(
                _join_kernel, (n * groups,), sums, weight, joined, means, tiles, h * w, c, groups, weight.stride(0),
                config=_join_config(c // groups),
            )  # fmt: skip

        def gradient(config: Config) -> None:
            launch.start(
                _gradient_kernel, _grid(x, config), grad, x, out, statistics, means, weight, grad_x, grad_residual,
                h * w, w, c, groups, *grad.stride(), *x.stride(), *out.stride(), weight.stride(0), *grad_x.stride(),
                config=config, HAS_RESIDUAL=residual, RELU=act == "relu",
            )  # fmt: skip

        tuning.tuned(SUMS[nhwc], size_class(x), x, sums)
        tuning.tuned(GRADIENT[nhwc], size_class(x), x, gradient)
    grad_bias, grad_weight = (joined[:, i].sum(0).to(weight.dtype) for i in range(2))
    grads = [grad_x, grad_weight, grad_bias]
    return [*grads, grad_residual] if residual else grads
