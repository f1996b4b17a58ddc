"""upsample_argmax in Triton: bilinear resize of logits (N, K, h, w) to (H, W) and argmax over K.

Maths: an output pixel is a convex combination of its cell's four corners, so
  1. a class that is the largest at all four is the largest in the whole cell;
  2. elsewhere a class can win only if its largest corner reaches the smallest corner of every class.

Tiling: one program per cell. It reads the corners in blocks of classes and, if 1 holds, fills the cell's pixels. Else
it interpolates, for BLOCK_Y x BLOCK_X pixels at once, the blocks with a class that can win by 2, or all blocks if a
corner is not finite (0 * inf is NaN, and NaN is the largest, as in PyTorch).

Bytes: the labels once; the logits once from memory and four times from the caches, because neighbours share corners.
FLOPs: 4 K comparisons per corner; 7 K per pixel of the cells that disagree.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segnext_kernels.ops.upsample_argmax.reference import empty_labels
from segnext_kernels.triton import launch, tuning
from segnext_kernels.triton.bilinear import outputs_of, source_of
from segnext_kernels.triton.tuning import Space, config, size_class

NONE = tl.constexpr(2**31 - 1)  # larger than every class id


@triton.jit
def _winner(values, labels):
    """The lowest label of the largest value."""
    return tl.min(tl.where(values == tl.max(values, 0), labels, NONE), 0)


@triton.jit
def _argmax_kernel(
    logits_ptr, labels_ptr, classes, height, width, out_height, out_width, scale_h, scale_w, inverse_h, inverse_w,
    reach_h, reach_w, stride_n, stride_k, stride_h, stride_w,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0)
    n = (cell // (height * width)).to(tl.int64)
    y, x = (cell // width) % height, cell % width
    first_y, end_y = outputs_of(y, y, inverse_h, height, out_height)
    first_x, end_x = outputs_of(x, x, inverse_w, width, out_width)
    if end_y > first_y:
        if end_x > first_x:
            k = tl.arange(0, BLOCK_K)
            block = k.to(tl.int64) * stride_k
            below, right = tl.minimum(y + reach_h, height - 1), tl.minimum(x + reach_w, width - 1)
            image = logits_ptr + n * stride_n
            a_at = image + y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
            b_at = image + y.to(tl.int64) * stride_h + right.to(tl.int64) * stride_w
            c_at = image + below.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
            d_at = image + below.to(tl.int64) * stride_h + right.to(tl.int64) * stride_w

            # per lane: the largest logit of each corner and its class; the largest of the smallest corners
            low = tl.full((BLOCK_K,), -float("inf"), tl.float32)
            best_a, best_b, best_c, best_d, threshold = low, low, low, low, low
            none = tl.full((BLOCK_K,), NONE, tl.int32)
            label_a, label_b, label_c, label_d = none, none, none, none
            infinite = tl.zeros((BLOCK_K,), tl.int32)
            for first_k in range(0, classes, BLOCK_K):
                inside = first_k + k < classes
                at = block + tl.full((1,), first_k, tl.int64) * stride_k
                a = tl.load(a_at + at, mask=inside, other=0.0).to(tl.float32)
                b = tl.load(b_at + at, mask=inside, other=0.0).to(tl.float32)
                c = tl.load(c_at + at, mask=inside, other=0.0).to(tl.float32)
                d = tl.load(d_at + at, mask=inside, other=0.0).to(tl.float32)
                spread = tl.abs(a) + tl.abs(b) + tl.abs(c) + tl.abs(d)
                infinite = tl.where(spread < float("inf"), infinite, 1)
                a, b = tl.where(inside, a, -float("inf")), tl.where(inside, b, -float("inf"))
                c, d = tl.where(inside, c, -float("inf")), tl.where(inside, d, -float("inf"))
                label_a = tl.where(a > best_a, first_k + k, label_a)
                label_b = tl.where(b > best_b, first_k + k, label_b)
                label_c = tl.where(c > best_c, first_k + k, label_c)
                label_d = tl.where(d > best_d, first_k + k, label_d)
                best_a, best_b = tl.maximum(best_a, a), tl.maximum(best_b, b)
                best_c, best_d = tl.maximum(best_c, c), tl.maximum(best_d, d)
                threshold = tl.maximum(threshold, tl.minimum(tl.minimum(a, b), tl.minimum(c, d)))
            label = _winner(best_a, label_a)
            others = (_winner(best_b, label_b) != label).to(tl.int32)
            others += (_winner(best_c, label_c) != label).to(tl.int32)
            others += (_winner(best_d, label_d) != label).to(tl.int32)
            is_infinite = tl.max(infinite, 0)
            reach_value = tl.max(threshold, 0)

            pixel = tl.arange(0, BLOCK_Y * BLOCK_X)
            for tile_y in range(first_y, end_y, BLOCK_Y):
                for tile_x in range(first_x, end_x, BLOCK_X):
                    out_y, out_x = tile_y + pixel // BLOCK_X, tile_x + pixel % BLOCK_X
                    from_y, _, weight_y = source_of(out_y, scale_h, height, reach_h)
                    from_x, _, weight_x = source_of(out_x, scale_w, width, reach_w)
                    mine = (out_y < out_height) & (from_y == y) & (out_x < out_width) & (from_x == x)
                    result = tl.zeros((BLOCK_Y * BLOCK_X,), tl.int32) + label
                    if others + is_infinite > 0:
                        h1, w1 = weight_y[:, None], weight_x[:, None]
                        best = tl.full((BLOCK_Y * BLOCK_X,), -float("inf"), tl.float32)
                        nan = tl.full((BLOCK_Y * BLOCK_X,), NONE, tl.int32)
                        result = tl.zeros((BLOCK_Y * BLOCK_X,), tl.int32)
                        for first_k in range(0, classes, BLOCK_K):
                            inside = first_k + k < classes
                            at = block + tl.full((1,), first_k, tl.int64) * stride_k
                            a = tl.load(a_at + at, mask=inside, other=-float("inf")).to(tl.float32)
                            b = tl.load(b_at + at, mask=inside, other=-float("inf")).to(tl.float32)
                            c = tl.load(c_at + at, mask=inside, other=-float("inf")).to(tl.float32)
                            d = tl.load(d_at + at, mask=inside, other=-float("inf")).to(tl.float32)
                            largest = tl.max(tl.maximum(tl.maximum(a, b), tl.maximum(c, d)), 0)
                            if is_infinite + (largest >= reach_value).to(tl.int32) > 0:
                                top = (1.0 - w1) * a[None, :] + w1 * b[None, :]
                                bottom = (1.0 - w1) * c[None, :] + w1 * d[None, :]
                                value = (1.0 - h1) * top + h1 * bottom
                                is_nan = (value != value) & inside[None, :]
                                value = tl.where((value == value) & inside[None, :], value, -float("inf"))
                                labels = (first_k + k)[None, :]
                                nan = tl.minimum(nan, tl.min(tl.where(is_nan, labels, NONE), 1))
                                most = tl.max(value, 1)
                                winner = tl.min(tl.where(value == most[:, None], labels, NONE), 1)
                                result = tl.where(most > best, winner, result)
                                best = tl.maximum(best, most)
                        result = tl.where(nan < NONE, nan, result)
                    to = (n * out_height + out_y) * out_width + out_x
                    tl.store(labels_ptr + to, result.to(labels_ptr.dtype.element_ty), mask=mine)


# A cell of 8 x 8 pixels and 32 classes are 2048 values, 32 per thread of two warps; one warp would need all of its 255
# registers. More classes at once mean fewer iterations and less pruning.
SPACE = Space(
    "upsample_argmax.cell",
    (
        config(num_warps=2, BLOCK_K=32),
        config(num_warps=1, BLOCK_K=16),
        config(num_warps=4, BLOCK_K=32),
        config(num_warps=4, BLOCK_K=64),
    ),
    live=lambda config: 64 * config["BLOCK_K"] + 14 * config["BLOCK_K"],
)


def cell_side(in_size: int, out_size: int) -> int:
    """Pixels of a tile along an axis, a power of two up to 8. Border cells are larger: they take several tiles."""
    return min(triton.next_power_of_2(triton.cdiv(out_size, in_size)), 8)


def forward(logits: torch.Tensor, size: list[int], align_corners: bool = False) -> torch.Tensor:
    """See `ops.upsample_argmax.op`."""
    n, k, h, w = logits.shape
    out_h, out_w = size
    labels = empty_labels(logits, size)
    if n == 0:
        return labels

    def run(config: tuning.Config) -> torch.Tensor:
        launch.start(
            _argmax_kernel, (n * h * w,), logits, labels, k, h, w, out_h, out_w, h / out_h, w / out_w, out_h / h,
            out_w / w, int(out_h != h), int(out_w != w), *logits.stride(), config=config,
            BLOCK_Y=cell_side(h, out_h), BLOCK_X=cell_side(w, out_w),
        )  # fmt: skip
        return labels

    return tuning.tuned(SPACE, size_class(logits, f"{out_h}x{out_w}"), logits, run)
