"""channel_norm: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.memory_format import accumulator_dtype
from segnext_kernels.ops.channel_norm import op, reference
from segnext_kernels.spec import STAGES, BadInput, Draw, Sample, Spec, samples


def _build(
    draw: Draw, n: int, c: int, h: int, w: int, wide_affine: bool = False, offset: float = 0.0
) -> tuple[Any, ...]:
    affine = accumulator_dtype(draw.dtype) if wide_affine else draw.dtype
    return (
        draw.image(n, c, h, w) + offset,
        (draw.normal(c, scale=0.5) + 1).to(affine),
        draw.normal(c).to(affine),
        1e-5,
    )


SPEC = Spec(
    name=op.NAME,
    public=op.channel_norm,
    reference=reference.channel_norm,
    differentiable=(),
    samples=samples(
        _build,
        c20_h9w7=dict(n=2, c=20, h=9, w=7),
        c32_h13w5_fp32_affine=dict(n=1, c=32, h=13, w=5, wide_affine=True),
        c160_h3w4=dict(n=2, c=160, h=3, w=4, wide_affine=True),
        c300_h3w5=dict(n=1, c=300, h=3, w=5),
        c8_h6w5_mean30=dict(n=2, c=8, h=6, w=5, offset=30.0),
        c2_h4w5=dict(n=2, c=2, h=4, w=5),
        c16_h1w1=dict(n=2, c=16, h=1, w=1),
        c17_h1w70=dict(n=1, c=17, h=1, w=70),
        n0_c8_h6w5=dict(n=0, c=8, h=6, w=5),
    ),
    model_shapes=tuple(
        Sample(f"{stage}-c{c}-h{side}w{side}", _build, dict(n=1, c=c, h=side, w=side, wide_affine=True))
        for stage, (c, side, _) in STAGES.items()
    ),
    bad_inputs=(
        BadInput("x-axes", {"x": torch.zeros(20, 9)}, ValueError, r"x must be \(N, C, H, W\), got shape"),
        BadInput(
            "x-dtype", {"x": torch.zeros(2, 20, 9, 7).int()}, TypeError, r"x must be float16.*, got int32"
        ),
        BadInput(
            "weight-shape", {"weight": torch.zeros(2)}, ValueError, r"weight must be \(20,\), got \(2,\)"
        ),
        BadInput("weight-none", {"weight": None}, TypeError, r"weight must be a tensor .*, got None"),
        BadInput(
            "weight-dtype",
            {"weight": torch.zeros(20).half()},
            TypeError,
            r"weight and bias must both be float32 as x, got float16 and float32",
        ),
        BadInput(
            "bias-device",
            {"bias": torch.zeros(20, device="meta")},
            ValueError,
            r"bias must be on cpu as x, got meta",
        ),
    ),
)
