"""upsample_cross_entropy in Triton: the loss of bilinearly resized logits, and its gradient at their own size.

Maths: with v_k the interpolated logits of a pixel, lse = log sum_k exp(v_k), t its label, w the class weights and s the
smoothing:
    loss = (1 - s) w_t (lse - v_t) + s / K sum_k w_k (lse - v_k),
    d loss / dv_k = (sum q) exp(v_k - lse) - q_k with q_k = (1 - s) w_t [k = t] + s w_k / K.
A logit's gradient is the sum of this over the pixels that it is blended into.

Tiling of the forward: one program per cell of four corners processes BLOCK_Y x BLOCK_X pixels at once against blocks of
classes. It reads each corner's block once for all pixels and updates the sum of exponentials online. The backward does
the same and writes lse. Then one program per logit position and block of classes loops over the rows of pixels that its
logit is blended into; it blends three columns of logits vertically once per row. So no pixel's probabilities are ever
in memory. Each is computed four times, once per corner, so that no gradient is added atomically.

Bytes, n the bytes of the logits, P pixels: forward n (4 n from caches) + 8 P of int64 labels; backward 2 n read, n
written, 8 P of labels read and 4 P of lse written, then both read four times, mostly from L2. FLOPs: about 12 K P and
K P exponentials forward, 40 K P and 4 K P backward.

A label out of range causes no read out of bounds. It makes loss and gradient NaN: to raise an error, the CPU would have
to wait for the GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels import memory_format
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.bilinear import outputs_of, source_of
from segnext_kernels.triton.tuning import Config, Space, config, size_class


@triton.jit
def _label_of(target_ptr, mask, ignore_index, classes):
    """The label, put in range; whether the pixel counts; NaN if it counts and its label is no class, else 0."""
    label = tl.load(target_ptr, mask=mask, other=0).to(tl.int64)
    counted = mask & (label != ignore_index)
    is_class = (label >= 0) & (label < classes)
    wrong = tl.where(counted & (label < 0), float("nan"), 0.0)
    wrong = tl.where(counted & (label >= classes), float("nan"), wrong)
    return tl.where(is_class, label, 0).to(tl.int32), counted, wrong


@triton.jit
def _forward_kernel(
    logits_ptr, target_ptr, weight_ptr, weight_sum_ptr, lse_ptr, sums_ptr,
    classes, height, width, out_height, out_width, scale_h, scale_w, inverse_h, inverse_w, reach_h, reach_w,
    ignore_index, smoothing,
    stride_n, stride_k, stride_h, stride_w, stride_tn, stride_th, stride_tw,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, WRITE_LSE: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0)
    n = (cell // (height * width)).to(tl.int64)
    y, x = (cell // width) % height, cell % width
    first_y, end_y = outputs_of(y, y, inverse_h, height, out_height)
    first_x, end_x = outputs_of(x, x, inverse_w, width, out_width)
    k = tl.arange(0, BLOCK_K)
    block = k.to(tl.int64) * stride_k
    below, right = tl.minimum(y + reach_h, height - 1), tl.minimum(x + reach_w, width - 1)
    image = logits_ptr + n * stride_n
    a_at = image + y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    b_at = image + y.to(tl.int64) * stride_h + right.to(tl.int64) * stride_w
    c_at = image + below.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    d_at = image + below.to(tl.int64) * stride_h + right.to(tl.int64) * stride_w
    weight_sum = tl.load(weight_sum_ptr)

    pixel = tl.arange(0, BLOCK_Y * BLOCK_X)
    losses = tl.zeros((BLOCK_Y * BLOCK_X,), tl.float32)
    weights = tl.zeros((BLOCK_Y * BLOCK_X,), tl.float32)
    for tile_y in range(first_y, end_y, BLOCK_Y):
        for tile_x in range(first_x, end_x, BLOCK_X):
            out_y, out_x = tile_y + pixel // BLOCK_X, tile_x + pixel % BLOCK_X
            from_y, _, h1 = source_of(out_y, scale_h, height, reach_h)
            from_x, _, w1 = source_of(out_x, scale_w, width, reach_w)
            mine = (out_y < out_height) & (from_y == y) & (out_x < out_width) & (from_x == x)
            out_y, out_x = out_y.to(tl.int64), out_x.to(tl.int64)
            target_at = target_ptr + n * stride_tn + out_y * stride_th + out_x * stride_tw
            label, counted, wrong = _label_of(target_at, mine, ignore_index, classes)
            h1, w1 = h1[:, None], w1[:, None]
            most = tl.full((BLOCK_Y * BLOCK_X,), -float("inf"), tl.float32)
            total = tl.zeros((BLOCK_Y * BLOCK_X,), tl.float32)
            chosen = tl.zeros((BLOCK_Y * BLOCK_X,), tl.float32)
            weighted = tl.zeros((BLOCK_Y * BLOCK_X,), tl.float32)
            for first_k in range(0, classes, BLOCK_K):
                inside = first_k + k < classes
                at = block + tl.full((1,), first_k, tl.int64) * stride_k
                a = tl.load(a_at + at, mask=inside, other=0.0).to(tl.float32)[None, :]
                b = tl.load(b_at + at, mask=inside, other=0.0).to(tl.float32)[None, :]
                c = tl.load(c_at + at, mask=inside, other=0.0).to(tl.float32)[None, :]
                d = tl.load(d_at + at, mask=inside, other=0.0).to(tl.float32)[None, :]
                top, bottom = (1.0 - w1) * a + w1 * b, (1.0 - w1) * c + w1 * d
                value = (1.0 - h1) * top + h1 * bottom
                chosen += tl.sum(tl.where((first_k + k)[None, :] == label[:, None], value, 0.0), 1)
                if SMOOTHED:
                    share = value
                    if WEIGHTED:
                        share *= tl.load(weight_ptr + first_k + k, mask=inside, other=0.0)[None, :]
                    weighted += tl.sum(tl.where(inside[None, :], share, 0.0), 1)
                value = tl.where(inside[None, :], value, -float("inf"))
                largest = tl.maximum(most, tl.max(value, 1))
                # if all are -inf, 0 replaces the largest, because -inf - -inf is NaN
                base = tl.where(largest == -float("inf"), 0.0, largest)
                total = total * tl.exp(most - base) + tl.sum(tl.exp(value - base[:, None]), 1)
                most = largest
            lse = tl.where(most == -float("inf"), most, most + tl.log(total))
            weight = tl.full((BLOCK_Y * BLOCK_X,), 1.0, tl.float32)
            if WEIGHTED:
                weight = tl.load(weight_ptr + label)
            loss = weight * (lse - chosen)
            if SMOOTHED:
                loss = (1.0 - smoothing) * loss + (smoothing / classes) * (lse * weight_sum - weighted)
            losses += tl.where(counted, loss, 0.0) + wrong
            weights += tl.where(counted, weight, 0.0) + wrong
            if WRITE_LSE:
                tl.store(lse_ptr + (n * out_height + out_y) * out_width + out_x, lse, mask=mine)
    sums = sums_ptr + cell.to(tl.int64) * 2
    tl.store(sums, tl.sum(losses, 0))
    tl.store(sums + 1, tl.sum(weights, 0))


@triton.jit
def _gradient_kernel(
    logits_ptr, target_ptr, weight_ptr, weight_sum_ptr, lse_ptr, sums_ptr, grad_ptr, grad_logits_ptr,
    classes, height, width, out_height, out_width,
    scale_h, scale_w, inverse_h, inverse_w, reach_h, reach_w, ignore_index, smoothing, pixels,
    stride_n, stride_k, stride_h, stride_w, stride_tn, stride_th, stride_tw, stride_gn, stride_gk, stride_gh, stride_gw,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, OVER_ALL: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0)
    n = (position // (height * width)).to(tl.int64)
    y, x = (position // width) % height, position % width
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = k < classes
    image = logits_ptr + n * stride_n + k.to(tl.int64) * stride_k
    before_at = image + tl.maximum(x - 1, 0).to(tl.int64) * stride_w
    here_at = image + x.to(tl.int64) * stride_w
    after_at = image + tl.minimum(x + 1, width - 1).to(tl.int64) * stride_w
    weights = tl.full((BLOCK_K,), 1.0, tl.float32)
    if WEIGHTED:
        weights = tl.load(weight_ptr + k, mask=inside, other=0.0)
    weight_sum = tl.load(weight_sum_ptr)

    # rows and columns whose source is this position or the one before: those that can be blended with it
    first_y, end_y = outputs_of(y - 1, y, inverse_h, height, out_height)
    first_x, end_x = outputs_of(x - 1, x, inverse_w, width, out_width)
    total = tl.zeros((BLOCK_X, BLOCK_K), tl.float32)
    touched = tl.zeros((BLOCK_X,), tl.int32)
    for row in range(first_y, end_y):
        out_y = tl.full((1,), row, tl.int32)
        from_y, next_y, h1 = source_of(out_y, scale_h, height, reach_h)
        share_y = tl.where(from_y == y, 1.0 - h1, 0.0) + tl.where(next_y == y, h1, 0.0)
        touches_y = (from_y == y) | (next_y == y)
        top, bottom = from_y.to(tl.int64) * stride_h, next_y.to(tl.int64) * stride_h
        before = (1.0 - h1) * tl.load(before_at + top, mask=inside, other=0.0).to(tl.float32)
        before += h1 * tl.load(before_at + bottom, mask=inside, other=0.0).to(tl.float32)
        here = (1.0 - h1) * tl.load(here_at + top, mask=inside, other=0.0).to(tl.float32)
        here += h1 * tl.load(here_at + bottom, mask=inside, other=0.0).to(tl.float32)
        after = (1.0 - h1) * tl.load(after_at + top, mask=inside, other=0.0).to(tl.float32)
        after += h1 * tl.load(after_at + bottom, mask=inside, other=0.0).to(tl.float32)
        for tile_x in range(first_x, end_x, BLOCK_X):
            out_x = tile_x + tl.arange(0, BLOCK_X)
            from_x, next_x, w1 = source_of(out_x, scale_w, width, reach_w)
            share_x = tl.where(from_x == x, 1.0 - w1, 0.0) + tl.where(next_x == x, w1, 0.0)
            mine = touches_y & (out_x < out_width) & ((from_x == x) | (next_x == x))
            target_at = (
                target_ptr + n * stride_tn + out_y.to(tl.int64) * stride_th + out_x.to(tl.int64) * stride_tw
            )
            label, counted, _ = _label_of(target_at, mine, ignore_index, classes)
            touched += counted.to(tl.int32)
            lse = tl.load(lse_ptr + (n * out_height + out_y) * out_width + out_x, mask=mine, other=0.0)
            weight = tl.full((BLOCK_X,), 1.0, tl.float32)
            if WEIGHTED:
                weight = tl.load(weight_ptr + label)
            left = tl.where((from_x == x)[:, None], here[None, :], before[None, :])
            right = tl.where((next_x == x)[:, None], here[None, :], after[None, :])
            value = (1.0 - w1)[:, None] * left + w1[:, None] * right
            probability = tl.exp(value - lse[:, None])
            is_label = k[None, :] == label[:, None]
            if SMOOTHED:
                sharp = (1.0 - smoothing) * weight
                gradient = (sharp + smoothing / classes * weight_sum)[:, None] * probability
                gradient -= smoothing / classes * weights[None, :] + tl.where(is_label, sharp[:, None], 0.0)
            else:
                gradient = weight[:, None] * (probability - tl.where(is_label, 1.0, 0.0))
            total += tl.where(counted[:, None], (share_y * share_x)[:, None] * gradient, 0.0)

    weight_total = tl.load(sums_ptr + 1)
    scale = tl.load(grad_ptr).to(tl.float32)
    if OVER_ALL:
        scale = scale / pixels + (weight_total - weight_total)  # NaN if a label is wrong
    else:
        scale = scale / weight_total
    # 0 if no pixel counts: the scale may be infinite
    counts = tl.sum(touched, 0)
    gradient = tl.where(tl.zeros((BLOCK_K,), tl.int32) + counts > 0, tl.sum(total, 0) * scale, 0.0)
    at = n * stride_gn + k.to(tl.int64) * stride_gk + y.to(tl.int64) * stride_gh + x.to(tl.int64) * stride_gw
    tl.store(grad_logits_ptr + at, gradient.to(grad_logits_ptr.dtype.element_ty), mask=inside)


# A cell of 8 x 8 pixels and 32 classes has 2048 values, and three such tensors are in registers: 24 values per thread
# of eight warps. With four warps the compiler spilled a few bytes for sm_80.
FORWARD = Space(
    "upsample_cross_entropy.forward",
    (
        config(num_warps=8, BLOCK_K=32),
        config(num_warps=4, BLOCK_K=16),
        config(num_warps=2, BLOCK_K=16),
        config(num_warps=8, BLOCK_K=64),
    ),
    live=lambda config: 64 * 3 * config["BLOCK_K"],
)
# 16 pixels per row: two cells at the decoder's stride of 8.
GRADIENT = Space(
    "upsample_cross_entropy.gradient",
    (
        config(num_warps=2, BLOCK_X=16, BLOCK_K=32),
        config(num_warps=4, BLOCK_X=16, BLOCK_K=64),
        config(num_warps=4, BLOCK_X=16, BLOCK_K=32),
        config(num_warps=4, BLOCK_X=8, BLOCK_K=128),
    ),
    live=lambda config: 4 * config["BLOCK_X"] * config["BLOCK_K"],
)


def _cell_side(in_size: int, out_size: int) -> int:
    return min(triton.next_power_of_2(triton.cdiv(out_size, in_size)), 8)


class _Arguments:
    """The parameters that both kernels need, computed from the op's arguments."""

    def __init__(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        ignore_index: int,
        class_weight: torch.Tensor | None,
        label_smoothing: float,
        reduction: str,
        align_corners: bool = False,
    ) -> None:
        _, k, h, w = logits.shape
        out_h, out_w = target.shape[1:]
        smoothed = label_smoothing > 0
        device = logits.device
        self.weight = None if class_weight is None else class_weight.float().contiguous()
        if self.weight is None or not smoothed:
            weight_sum = torch.full((1,), k, dtype=torch.float32, device=device)
        else:
            weight_sum = self.weight.sum(0, keepdim=True)
        self.tensors = (logits, target, weight_sum if self.weight is None else self.weight, weight_sum)
        scales = (h / out_h, w / out_w, out_h / h, out_w / w, int(out_h != h), int(out_w != w))
        self.sizes = (k, h, w, out_h, out_w, *scales, ignore_index, label_smoothing)
        self.strides = (*logits.stride(), *target.stride())
        self.constants = {"WEIGHTED": self.weight is not None, "SMOOTHED": smoothed}
        self.over_all = reduction == "mean_all"
        self.key = size_class(logits, f"{out_h}x{out_w}")

    def sums(self, lse: torch.Tensor | None) -> torch.Tensor:
        """(loss, weight), summed over all pixels; also stores the pixels' lse if ``lse`` is given."""
        logits, target = self.tensors[:2]
        n, _, h, w = logits.shape
        out_h, out_w = target.shape[1:]

        def run(config: Config) -> torch.Tensor:
            sums = torch.empty((n * h * w, 2), dtype=torch.float32, device=logits.device)
            launch.start(
                _forward_kernel, (n * h * w,), *self.tensors, sums if lse is None else lse, sums, *self.sizes,
                *self.strides, config=config, **self.constants, WRITE_LSE=lse is not None,
                BLOCK_Y=_cell_side(h, out_h), BLOCK_X=_cell_side(w, out_w),
            )  # fmt: skip
            return sums.sum(0)

        return tuning.tuned(FORWARD, self.key, logits, run)


def forward(logits: torch.Tensor, target: torch.Tensor, *rest: object) -> torch.Tensor:
    """See `ops.upsample_cross_entropy.op`."""
    if target.numel() == 0:
        return logits.new_full((), float("nan"), dtype=torch.float32)
    arguments = _Arguments(logits, target, *rest)  # type: ignore[arg-type]
    loss, weight = arguments.sums(lse=None)
    return loss / target.numel() if arguments.over_all else loss / weight


def backward(grad: torch.Tensor, logits: torch.Tensor, target: torch.Tensor, *rest: object) -> torch.Tensor:
    """Gradient of the logits; every pixel's lse is recomputed."""
    grad_logits = memory_format.empty_like(logits)
    if target.numel() == 0:
        return grad_logits
    n, k, h, w = logits.shape
    arguments = _Arguments(logits, target, *rest)  # type: ignore[arg-type]
    lse = torch.empty(target.shape, dtype=torch.float32, device=logits.device)
    sums = arguments.sums(lse)

    def run(config: Config) -> torch.Tensor:
        launch.start(
            _gradient_kernel, (n * h * w, triton.cdiv(k, config["BLOCK_K"])), *arguments.tensors, lse, sums, grad,
            grad_logits, *arguments.sizes, target.numel(), *arguments.strides, *grad_logits.stride(), config=config,
            **arguments.constants, OVER_ALL=arguments.over_all,
        )  # fmt: skip
        return grad_logits

    return tuning.tuned(GRADIENT, arguments.key, logits, run)
