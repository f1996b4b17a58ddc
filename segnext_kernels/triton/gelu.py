"""Exact GELU and its derivative inside Triton kernels, in float32."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normal_cdf(x):
    return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)


@triton.jit
def gelu(x):
    return x * normal_cdf(x)


@triton.jit
def gelu_derivative(x):
    density = tl.exp(-0.5 * x * x) * 0.3989422804014327
    return normal_cdf(x) + x * density
