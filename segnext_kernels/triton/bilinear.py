"""Where bilinear resizing reads from, in Triton kernels: the float32 arithmetic of PyTorch's CPU and CUDA code."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def source_of(out, scale, size, reach):
    """The first source index of output indices, the second one, and the weight of the second.

    Args:
        out: a block of output indices.
        scale: input size / output size.
        reach: 0 at scale 1, where PyTorch blends nothing, else 1.
    """
    # The product has a rounding of its own: it is exact in float64, and no compiler may fuse it with the difference.
    wide = tl.full((1,), scale, tl.float32).to(tl.float64)
    product = (wide * (out.to(tl.float64) + 0.5)).to(tl.float32)
    position = tl.maximum(product - 0.5, 0.0)
    source = tl.minimum(position.to(tl.int32), size - 1)
    weight = tl.minimum(position - source.to(tl.float32), 1.0)
    return source, tl.minimum(source + reach, size - 1), weight


@triton.jit
def outputs_of(first, last, inverse, size, out_size):
    """Begin and end of a range that holds all outputs whose source is in [first, last], and few others.

    ``inverse`` is output size / input size. A margin of a twentieth of a pixel covers the rounding of both ends. The
    caller compares each output's source with the range to exclude the others.
    """
    low = (first.to(tl.float32) + 0.5) * inverse - 0.5
    high = (last.to(tl.float32) + 1.5) * inverse - 0.5
    begin = tl.where(first <= 0, 0, tl.maximum(tl.ceil(low - 0.05 - low * 1e-6).to(tl.int32), 0))
    end = tl.minimum(tl.ceil(high + 0.05 + high * 1e-6).to(tl.int32), out_size)
    return begin, tl.where(last >= size - 1, out_size, end)
