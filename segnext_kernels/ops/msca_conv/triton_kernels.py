"""msca_conv in Triton: a = dwKxK(x); a + sum over strips of dwKx1(dw1xK(a)), and its gradients.

Three kernels make all images, each over tiles of BLOCK_W pixels x BLOCK_C channels of one row:
  root      makes a or, with the taps reversed, the gradient of x;
  fan out   makes one image per strip from one image, along the rows or the columns: the row convolutions of a or, with
            reversed taps, what the gradient sends back through the columns;
  fan in    makes one image from an image and one image per strip: the column convolutions and their sum with a or, with
            reversed taps, the gradient of a.
In fan out, a load of the widest strip's window serves the narrower strips. Forward: root, fan out, fan in. Backward:
root and fan out again (only x was saved), fan out and fan in reversed, root reversed; then a fourth kernel, with one
program per tile and tap, sums the products for the weights' gradients, and `torch.sum` adds the tiles.

One `torch.cat` packs all taps and biases into one (taps, C) tensor, whose rows are read whole.

Bytes, for E elements of s bytes with S strips: forward 2 s E (root), (1 + S) s E, (2 + S) s E: 11 s E for three strips,
of which all but 2 s E stay in L2 if the map fits. A single kernel for rows and columns would need a ring of as many
rows as the longest strip, in registers that Triton cannot index; the CUDA kernel has it. FLOPs: 206 E forward, 618 E
backward and 128 E for what is recomputed.
Model for an H200: loads from L1 are the bound, about 2.5 times the arithmetic. Per element they are 25 + 21 + 39 of
images; the 103 of weights are spread over a thread's pixels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.ops.msca_conv.reference import in_a_row
from segnext_kernels.ops.msca_conv.strips import MOST_TRITON_STRIPS
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.tuning import Config, Space, config, size_class


@triton.jit
def _place(width, height, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """Image, row (1, 1), columns (BLOCK_W, 1) and channels (1, BLOCK_C) of a program."""
    tiles_w = tl.cdiv(width, BLOCK_W)
    tile = tl.program_id(0)
    n = (tile // (tiles_w * height)).to(tl.int64)
    h = tl.full((1, 1), (tile // tiles_w) % height, tl.int64)
    w = (tile % tiles_w * BLOCK_W + tl.arange(0, BLOCK_W)).to(tl.int64)[:, None]
    c = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)[None, :]
    return n, h, w, c


@triton.jit
def _tap(taps_ptr, index, c, channels):
    return tl.load(taps_ptr + index * channels + c, mask=c < channels, other=0.0).to(tl.float32)


@triton.jit
def _shifted(at, h, w, is_channel, height, width, stride_h, stride_w, dh, dw):
    """Load the tile moved by (dh, dw), zero outside the image."""
    dh, dw = tl.full((1, 1), dh, tl.int64), tl.full((1, 1), dw, tl.int64)
    inside = is_channel & (h + dh >= 0) & (h + dh < height) & (w + dw >= 0) & (w + dw < width)
    return tl.load(at + dh * stride_h + dw * stride_w, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _root_kernel(
    x_ptr, taps_ptr, out_ptr, height, width, channels,
    stride_xn, stride_xc, stride_xh, stride_xw, stride_on, stride_oc, stride_oh, stride_ow,
    K: tl.constexpr, TURNED: tl.constexpr, BIAS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n, h, w, c = _place(width, height, BLOCK_W, BLOCK_C)
    inside = (w < width) & (c < channels)
    at = x_ptr + n * stride_xn + h * stride_xh + w * stride_xw + c * stride_xc
    total = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    if BIAS >= 0:
        total += _tap(taps_ptr, BIAS, c, channels)
    for i in range(K):
        for j in tl.static_range(K):
            x = _shifted(at, h, w, c < channels, height, width, stride_xh, stride_xw, i - K // 2, j - K // 2)
            if TURNED:
                total += x * _tap(taps_ptr, K * K - 1 - i * K - j, c, channels)
            else:
                total += x * _tap(taps_ptr, i * K + j, c, channels)
    out = out_ptr + n * stride_on + h * stride_oh + w * stride_ow + c * stride_oc
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _with_tap(
    total, x, taps_ptr, c, channels, J: tl.constexpr, LONGEST: tl.constexpr, K: tl.constexpr, FIRST: tl.constexpr,
    TURNED: tl.constexpr,
):  # fmt: skip
    """``total`` plus x times the tap of a K-tap strip at place J of the longest strip's window, if it has one there."""
    if J >= LONGEST // 2 - K // 2:
        if J < LONGEST // 2 - K // 2 + K:
            if TURNED:
                total += x * _tap(taps_ptr, FIRST + K - 1 - (J - LONGEST // 2 + K // 2), c, channels)
            else:
                total += x * _tap(taps_ptr, FIRST + J - LONGEST // 2 + K // 2, c, channels)
    return total


@triton.jit
def _fan_out_kernel(
    x_ptr, taps_ptr, out_ptr, height, width, channels,
    stride_xn, stride_xc, stride_xh, stride_xw, stride_os, stride_on, stride_oc, stride_oh, stride_ow,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, LONGEST: tl.constexpr, FIRST: tl.constexpr,
    BIAS: tl.constexpr, DOWN: tl.constexpr, TURNED: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n, h, w, c = _place(width, height, BLOCK_W, BLOCK_C)
    inside = (w < width) & (c < channels)
    at = x_ptr + n * stride_xn + h * stride_xh + w * stride_xw + c * stride_xc
    total0 = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    total1, total2 = total0, total0
    if BIAS >= 0:
        total0 += _tap(taps_ptr, BIAS, c, channels)
        if K1 > 0:
            total1 += _tap(taps_ptr, BIAS + 1, c, channels)
        if K2 > 0:
            total2 += _tap(taps_ptr, BIAS + 2, c, channels)
    for j in tl.static_range(LONGEST):
        if DOWN:
            x = _shifted(at, h, w, c < channels, height, width, stride_xh, stride_xw, j - LONGEST // 2, 0)
        else:
            x = _shifted(at, h, w, c < channels, height, width, stride_xh, stride_xw, 0, j - LONGEST // 2)
        total0 = _with_tap(total0, x, taps_ptr, c, channels, j, LONGEST, K0, FIRST, TURNED)
        total1 = _with_tap(total1, x, taps_ptr, c, channels, j, LONGEST, K1, FIRST + K0, TURNED)
        total2 = _with_tap(total2, x, taps_ptr, c, channels, j, LONGEST, K2, FIRST + K0 + K1, TURNED)
    out = out_ptr + n * stride_on + h * stride_oh + w * stride_ow + c * stride_oc
    tl.store(out, total0.to(out_ptr.dtype.element_ty), mask=inside)
    if K1 > 0:
        tl.store(out + tl.full((1, 1), stride_os, tl.int64), total1.to(out_ptr.dtype.element_ty), mask=inside)
    if K2 > 0:
        tl.store(
            out + tl.full((1, 1), stride_os, tl.int64) * 2, total2.to(out_ptr.dtype.element_ty), mask=inside
        )


@triton.jit
def _convolved(
    total, at, taps_ptr, h, w, c, height, width, channels, stride_h, stride_w,
    K: tl.constexpr, FIRST: tl.constexpr, DOWN: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """``total`` plus one strip's convolution of the image at ``at``."""
    # not unrolled: the compiler would start so many loads at once that registers spill
    for j in range(K):
        if DOWN:
            x = _shifted(at, h, w, c < channels, height, width, stride_h, stride_w, j - K // 2, 0)
        else:
            x = _shifted(at, h, w, c < channels, height, width, stride_h, stride_w, 0, j - K // 2)
        if TURNED:
            total += x * _tap(taps_ptr, FIRST + K - 1 - j, c, channels)
        else:
            total += x * _tap(taps_ptr, FIRST + j, c, channels)
    return total


@triton.jit
def _fan_in_kernel(
    base_ptr, strips_ptr, taps_ptr, out_ptr, height, width, channels,
    stride_bn, stride_bc, stride_bh, stride_bw, stride_ss, stride_sn, stride_sc, stride_sh, stride_sw,
    stride_on, stride_oc, stride_oh, stride_ow,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, FIRST: tl.constexpr, BIAS: tl.constexpr,
    DOWN: tl.constexpr, TURNED: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n, h, w, c = _place(width, height, BLOCK_W, BLOCK_C)
    inside = (w < width) & (c < channels)
    base = base_ptr + n * stride_bn + h * stride_bh + w * stride_bw + c * stride_bc
    total = tl.load(base, mask=inside, other=0.0).to(tl.float32)
    if BIAS >= 0:
        total += _tap(taps_ptr, BIAS, c, channels)
        if K1 > 0:
            total += _tap(taps_ptr, BIAS + 1, c, channels)
        if K2 > 0:
            total += _tap(taps_ptr, BIAS + 2, c, channels)
    strip = tl.full((1, 1), stride_ss, tl.int64)
    at = strips_ptr + n * stride_sn + h * stride_sh + w * stride_sw + c * stride_sc
    total = _convolved(
        total, at, taps_ptr, h, w, c, height, width, channels, stride_sh, stride_sw, K0, FIRST, DOWN, TURNED
    )
    if K1 > 0:
        total = _convolved(
            total, at + strip, taps_ptr, h, w, c, height, width, channels, stride_sh, stride_sw, K1, FIRST + K0,
            DOWN, TURNED,
        )  # fmt: skip
    if K2 > 0:
        total = _convolved(
            total, at + 2 * strip, taps_ptr, h, w, c, height, width, channels, stride_sh, stride_sw, K2,
            FIRST + K0 + K1, DOWN, TURNED,
        )  # fmt: skip
    out = out_ptr + n * stride_on + h * stride_oh + w * stride_ow + c * stride_oc
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _products_kernel(
    grad_ptr, x_ptr, sums_ptr, height, width, channels, taps,
    stride_gs, stride_gn, stride_gc, stride_gh, stride_gw, stride_xs, stride_xn, stride_xc, stride_xh, stride_xw,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, ALONG: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Per tile and tap, the sum of gradient times moved input, (tiles, taps, C). A strip's last tap is its bias.

    ALONG is 0 for a root of K0 x K0 taps, 1 for rows and 2 for columns.
    """
    tiles_w, tiles_h = tl.cdiv(width, BLOCK_W), tl.cdiv(height, ROWS)
    tile = tl.program_id(0)
    n = (tile // (tiles_w * tiles_h)).to(tl.int64)
    first = (tile // tiles_w) % tiles_h * ROWS
    w = (tile % tiles_w * BLOCK_W + tl.arange(0, BLOCK_W)).to(tl.int64)[:, None]
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    c = channel[None, :]
    tap = tl.program_id(2)
    strip, size, j = tap * 0, tap * 0 + K0, tap
    if ALONG == 0:
        dh, dw = tap // K0 - K0 // 2, tap % K0 - K0 // 2
        is_bias = tap == K0 * K0
    else:
        if K1 > 0:
            later = (tap >= K0 + 1).to(tl.int32)
            strip, size, j = later, tl.where(later > 0, K1, K0), tap - later * (K0 + 1)
        if K2 > 0:
            last = (tap >= K0 + K1 + 2).to(tl.int32)
            strip, size, j = strip + last, tl.where(last > 0, K2, size), j - last * (K1 + 1)
        is_bias = j == size
        dh, dw = tap * 0, j - size // 2
        if ALONG == 2:
            dh, dw = dw, dh
    grad_at = grad_ptr + strip.to(tl.int64) * stride_gs + n * stride_gn + w * stride_gw + c * stride_gc
    from_w = w + dw
    x_at = x_ptr + strip.to(tl.int64) * stride_xs + n * stride_xn + from_w * stride_xw + c * stride_xc
    inside = (w < width) & (c < channels)
    x_inside = inside & (from_w >= 0) & (from_w < width)
    total = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    for h in range(first, tl.minimum(first + ROWS, height)):
        row = tl.full((1, 1), h, tl.int64)
        grad = tl.load(grad_at + row * stride_gh, mask=inside, other=0.0).to(tl.float32)
        if is_bias:
            total += grad
        else:
            from_h = row + dh
            mask = x_inside & (from_h >= 0) & (from_h < height)
            total += grad * tl.load(x_at + from_h * stride_xh, mask=mask, other=0.0).to(tl.float32)
    sums = sums_ptr + (tile.to(tl.int64) * taps + tap) * channels + channel
    tl.store(sums, tl.sum(total, 0), mask=channel < channels)


def _spaces(name: str, values: int, rows: int = 0, unrolled: bool = False) -> dict[bool, Space]:
    """Spaces for channels_last (True) and contiguous; ``values`` are held per place of a tile.

    Four places per thread if loops are unrolled, so that their loads fit the registers; else eight: 16 bytes of a
    16-bit type, and a weight's load serves two pixels. 64 channels or pixels along the innermost axis make whole lines.
    """

    def live(config: Config) -> int:
        return values * config["BLOCK_W"] * config["BLOCK_C"]

    more = {"ROWS": rows} if rows else {}
    nhwc = (
        config(BLOCK_W=16, BLOCK_C=64, **more),
        config(BLOCK_W=8, BLOCK_C=64, **more),
        config(BLOCK_W=8, BLOCK_C=32, num_warps=2, **more),
    )
    nchw = (
        config(BLOCK_W=128, BLOCK_C=8, **more),
        config(BLOCK_W=64, BLOCK_C=8, **more),
        config(BLOCK_W=32, BLOCK_C=8, num_warps=2, **more),
    )
    first = 1 if unrolled else 0
    return {
        True: Space(f"{name}.nhwc", nhwc[first:], live),
        False: Space(f"{name}.nchw", nchw[first:], live),
    }


ROOT = _spaces("msca_conv.root", values=3)
FAN_OUT = _spaces("msca_conv.fan_out", values=5, unrolled=True)
FAN_IN = _spaces("msca_conv.fan_in", values=3)
PRODUCTS = _spaces("msca_conv.products", values=3, rows=32)


class _Convolution:
    """The kernels on one input's shape, with all taps packed: [root, rows, columns, and their biases in this order]."""

    def __init__(
        self,
        x: torch.Tensor,
        root_weight: torch.Tensor,
        root_bias: torch.Tensor | None,
        row_weights: list[torch.Tensor],
        column_weights: list[torch.Tensor],
        row_biases: list[torch.Tensor],
        column_biases: list[torch.Tensor],
    ) -> None:
        c = x.shape[1]
        self.x, self.nhwc, self.key = x, memory_format.is_channels_last(x), size_class(x)
        self.root = root_weight.shape[2]
        self.strips = [row.shape[3] for row in row_weights]
        biases = ([] if root_bias is None else [root_bias]) + row_biases + column_biases
        packed = [t.reshape(c, -1).T for t in (root_weight, *row_weights, *column_weights, *biases)]
        self.taps = torch.cat(packed)
        self.row_taps = self.root**2
        self.column_taps = self.row_taps + sum(self.strips)
        bias = self.column_taps + sum(self.strips)
        self.root_bias = -1 if root_bias is None else bias
        bias += root_bias is not None
        self.row_bias = bias if row_biases else -1
        self.column_bias = bias + len(row_biases) if column_biases else -1

    def _grid(self, config: Config) -> tuple[int, int]:
        n, c, h, w = self.x.shape
        return n * h * triton.cdiv(w, config["BLOCK_W"]), triton.cdiv(c, config["BLOCK_C"])

    def _sizes(self) -> dict[str, int]:
        return {f"K{i}": self.strips[i] if i < len(self.strips) else 0 for i in range(MOST_TRITON_STRIPS)}

    def _images(self) -> torch.Tensor:
        """(strips, N, C, H, W) in x's format, uninitialised."""
        n, c, h, w = self.x.shape
        if self.nhwc:
            return self.x.new_empty((len(self.strips), n, h, w, c)).permute(0, 1, 4, 2, 3)
        return self.x.new_empty((len(self.strips), n, c, h, w))

    def of_root(self, x: torch.Tensor, turned: bool = False) -> torch.Tensor:
        out = memory_format.empty_like(self.x)
        _, c, h, w = x.shape

        def run(config: Config) -> torch.Tensor:
            launch.start(
                _root_kernel, self._grid(config), x, self.taps, out, h, w, c, *x.stride(), *out.stride(), config=config,
                K=self.root, TURNED=turned, BIAS=-1 if turned else self.root_bias,
            )  # fmt: skip
            return out

        return tuning.tuned(ROOT[self.nhwc], self.key, self.x, run)

    def fan_out(self, x: torch.Tensor, turned: bool = False) -> torch.Tensor:
        """The row convolutions of ``x`` or, if ``turned``, the column convolutions with reversed taps."""
        out = self._images()
        _, c, h, w = x.shape

        def run(config: Config) -> torch.Tensor:
            launch.start(
                _fan_out_kernel, self._grid(config), x, self.taps, out, h, w, c, *x.stride(), *out.stride(),
                config=config, **self._sizes(), LONGEST=max(self.strips), DOWN=turned, TURNED=turned,
                FIRST=self.column_taps if turned else self.row_taps, BIAS=-1 if turned else self.row_bias,
            )  # fmt: skip
            return out

        return tuning.tuned(FAN_OUT[self.nhwc], self.key, self.x, run)

    def fan_in(self, base: torch.Tensor, strips: torch.Tensor, turned: bool = False) -> torch.Tensor:
        """``base`` plus the columns of ``strips`` or, if ``turned``, their rows with reversed taps."""
        out = memory_format.empty_like(self.x)
        _, c, h, w = base.shape

        def run(config: Config) -> torch.Tensor:
            launch.start(
                _fan_in_kernel, self._grid(config), base, strips, self.taps, out, h, w, c, *base.stride(),
                *strips.stride(), *out.stride(), config=config, **self._sizes(), DOWN=not turned, TURNED=turned,
                FIRST=self.row_taps if turned else self.column_taps, BIAS=-1 if turned else self.column_bias,
            )  # fmt: skip
            return out

        return tuning.tuned(FAN_IN[self.nhwc], self.key, self.x, run)

    def products(self, grad: torch.Tensor, x: torch.Tensor, along: int) -> torch.Tensor:
        """(taps, C): gradients of the root's (0), the rows' (1) or the columns' (2) taps and biases."""
        n, c, h, w = self.x.shape
        taps = self.root**2 + 1 if along == 0 else sum(self.strips) + len(self.strips)
        sizes = {"K0": self.root, "K1": 0, "K2": 0} if along == 0 else self._sizes()
        # a single image for all strips has no stride between them
        strides = [(0, *t.stride()) if t.ndim == 4 else t.stride() for t in (grad, x)]

        def run(config: Config) -> torch.Tensor:
            tiles = n * triton.cdiv(h, config["ROWS"]) * triton.cdiv(w, config["BLOCK_W"])
            sums = torch.empty((tiles, taps, c), dtype=torch.float32, device=self.x.device)
            launch.start(
                _products_kernel, (tiles, triton.cdiv(c, config["BLOCK_C"]), taps), grad, x, sums, h, w, c, taps,
                *strides[0], *strides[1], config=config, **sizes, ALONG=along,
            )  # fmt: skip
            return sums.sum(0)

        return tuning.tuned(PRODUCTS[self.nhwc], self.key, self.x, run)


def forward(x: torch.Tensor, *params: object) -> torch.Tensor:
    """See `ops.msca_conv.op`."""
    if x.numel() == 0:
        return memory_format.empty_like(x)
    convolution = _Convolution(x, *params)  # type: ignore[arg-type]
    a = convolution.of_root(x)
    return convolution.fan_in(a, convolution.fan_out(a)) if convolution.strips else a


def backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: list[torch.Tensor],
    column_weights: list[torch.Tensor],
    row_biases: list[torch.Tensor],
    column_biases: list[torch.Tensor],
) -> list[torch.Tensor]:
    """See `ops.msca_conv.op`."""
    params = in_a_row(root_weight, root_bias, row_weights, column_weights, row_biases, column_biases)
    if x.numel() == 0:
        return [
            memory_format.empty_like(x),
            *(torch.zeros_like(p, memory_format=torch.contiguous_format) for p in params),
        ]
    convolution = _Convolution(
        x, root_weight, root_bias, row_weights, column_weights, row_biases, column_biases
    )
    grad_a = grad
    of_rows: list[torch.Tensor] = []
    of_columns: list[torch.Tensor] = []
    if convolution.strips:
        a = convolution.of_root(x)
        rows = convolution.fan_out(a)
        grad_rows = convolution.fan_out(grad, turned=True)
        grad_a = convolution.fan_in(grad, grad_rows, turned=True)
        sizes = [k + 1 for k in convolution.strips]
        of_rows = list(convolution.products(grad_rows, a, along=1).split(sizes))
        of_columns = list(convolution.products(grad, rows, along=2).split(sizes))
    of_root = convolution.products(grad_a, x, along=0)
    sums = [of_root[:-1], *([] if root_bias is None else [of_root[-1:]])]
    sums += [part[:-1] for part in of_rows + of_columns]
    sums += [part[-1:] for part in (of_rows if row_biases else []) + (of_columns if column_biases else [])]
    grads = [p.new_empty(p.shape) for p in params]
    for to, part in zip(grads, sums, strict=True):
        to.view(x.shape[1], -1).copy_(part.T)
    return [convolution.of_root(grad_a, turned=True), *grads]
