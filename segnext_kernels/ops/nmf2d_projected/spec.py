"""nmf2d_projected: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.memory_format import accumulator_dtype
from segnext_kernels.ops.nmf2d.spec import SPEC as NMF
from segnext_kernels.ops.nmf2d_projected import op, reference
from segnext_kernels.spec import BadInput, Draw, Spec, samples


def _build(
    draw: Draw, b: int, d: int, n: int, r: int, p: int, steps: int, wide: bool = True, **others: Any
) -> tuple[Any, ...]:
    x, bases, *_ = NMF.samples[0].build(draw, b=b, d=d, n=n, r=r, steps=steps, wide_bases=wide, **others)
    projection = draw.weight(p, d)
    return x, bases, steps, projection.to(accumulator_dtype(draw.dtype)) if wide else projection, 1e-6


SPEC = Spec(
    name=op.NAME,
    public=op.nmf2d_projected,
    reference=reference.nmf2d_projected,
    differentiable=(),
    matrix_products=True,
    samples=samples(
        _build,
        d8_n35_r4_p6_6steps=dict(b=2, d=8, n=35, r=4, p=6, steps=6),
        d64_n300_r20_p70_inner_rows=dict(b=2, d=64, n=300, r=20, p=70, steps=6, inner_rows=True),
        d20_n63_r5_p20_own_bases=dict(b=3, d=20, n=63, r=5, p=20, steps=3, shared=False),
        d12_n30_r4_p9_all_as_x=dict(b=2, d=12, n=30, r=4, p=9, steps=2, wide=False),
        d12_n700_r4_p3_large=dict(b=1, d=12, n=700, r=4, p=3, steps=6, scale=30.0),
        d9_n40_r4_p1_inner_rows=dict(b=2, d=9, n=40, r=4, p=1, steps=2, inner_rows=True),
        d4_n1_r1_p5_0steps=dict(b=2, d=4, n=1, r=1, p=5, steps=0),
        d1_n5_r8_p2_rank_above_d=dict(b=1, d=1, n=5, r=8, p=2, steps=2, positive=True),
        b0_d8_n6_r4_p3=dict(b=0, d=8, n=6, r=4, p=3, steps=2),
    ),
    model_shapes=samples(
        _build,
        t_d256_n4096_r16=dict(b=1, d=256, n=4096, r=16, p=256, steps=7, inner_rows=True),
        b_d512_n4096_r64=dict(b=1, d=512, n=4096, r=64, p=512, steps=7, inner_rows=True),
    ),
    bad_inputs=(
        BadInput(
            "x-axes",
            {"x": torch.zeros(2, 8, 5, 7)},
            ValueError,
            r"x must be \(B, D, N\), got shape \(2, 8, 5, 7\)",
        ),
        BadInput(
            "bases-rows",
            {"bases": torch.zeros(1, 9, 4)},
            ValueError,
            r"bases must be \(1, 8, R\), got \(1, 9, 4\); x is \(2, 8, 35\)",
        ),
        BadInput(
            "bases-dtype",
            {"bases": torch.zeros(1, 8, 4).half()},
            TypeError,
            r"bases must be float32 as x, got float16",
        ),
        BadInput("steps", {"steps": -1}, ValueError, r"steps must be at least 0, got -1"),
        BadInput(
            "projection-none",
            {"projection": None},
            TypeError,
            r"projection must be a tensor .*, got NoneType",
        ),
        BadInput(
            "projection-columns",
            {"projection": torch.zeros(6, 9)},
            ValueError,
            r"projection must be \(P, 8\), got \(6, 9\); x is \(2, 8, 35\)",
        ),
        BadInput(
            "projection-axes",
            {"projection": torch.zeros(6, 8, 1, 1)},
            ValueError,
            r"projection must be \(P, D\), got shape \(6, 8, 1, 1\)",
        ),
        BadInput(
            "projection-dtype",
            {"projection": torch.zeros(6, 8).half()},
            TypeError,
            r"projection must be float32 as x, got float16",
        ),
        BadInput(
            "projection-device",
            {"projection": torch.zeros(6, 8, device="meta")},
            ValueError,
            r"projection must be on cpu as x, got meta",
        ),
    ),
    resized={"n": 48},
)
