"""pointwise: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.ops.pointwise import op, reference
from segnext_kernels.spec import STAGES, BadInput, Draw, Sample, Spec, samples


def _build(draw: Draw, n: int, ci: int, co: int, h: int, w: int, bias: bool = True) -> tuple[Any, ...]:
    return draw.image(n, ci, h, w), draw.weight(co, ci, 1, 1), draw.optional(bias, co)


SPEC = Spec(
    name=op.NAME,
    public=op.pointwise,
    reference=reference.pointwise,
    differentiable=("x", "weight", "bias"),
    matrix_products=True,
    samples=samples(
        _build,
        ci8_co12_h9w7=dict(n=2, ci=8, co=12, h=9, w=7),
        ci64_co32_h31w17=dict(n=1, ci=64, co=32, h=31, w=17),
        ci20_co70_h5w13=dict(n=2, ci=20, co=70, h=5, w=13),
        ci3_co7_h4w3=dict(n=2, ci=3, co=7, h=4, w=3),
        ci2_co1_h3w5=dict(n=2, ci=2, co=1, h=3, w=5),
        c16_h1w1=dict(n=2, ci=16, co=16, h=1, w=1),
        n0_c8_h6w5=dict(n=0, ci=8, co=8, h=6, w=5),
        c8_h9w6_no_bias=dict(n=1, ci=8, co=8, h=9, w=6, bias=False),
    ),
    # fc1 of each stage
    model_shapes=tuple(
        Sample(
            f"{stage}-ci{c}-co{c * expansion}-h{side}w{side}",
            _build,
            dict(n=1, ci=c, co=c * expansion, h=side, w=side),
        )
        for stage, (c, side, expansion) in STAGES.items()
    ),
    bad_inputs=(
        BadInput(
            "x-axes", {"x": torch.zeros(8, 9)}, ValueError, r"x must be \(N, Ci, H, W\), got shape \(8, 9\)"
        ),
        BadInput(
            "x-dtype", {"x": torch.zeros(2, 8, 9, 7).long()}, TypeError, r"x must be float16.*, got int64"
        ),
        BadInput(
            "weight-channels",
            {"weight": torch.zeros(12, 4, 1, 1)},
            ValueError,
            r"weight must be \(Co, 8, 1, 1\), got \(12, 4, 1, 1\); x is",
        ),
        BadInput("weight-none", {"weight": None}, TypeError, r"weight must be a tensor .*, got None"),
        BadInput(
            "weight-dtype",
            {"weight": torch.zeros(12, 8, 1, 1).double()},
            TypeError,
            r"weight must be float32 as x, got float64",
        ),
        BadInput(
            "weight-device",
            {"weight": torch.zeros(12, 8, 1, 1, device="meta")},
            ValueError,
            r"weight must be on cpu as x, got meta",
        ),
        BadInput(
            "bias-shape", {"bias": torch.zeros(12, 1)}, ValueError, r"bias must be \(12,\), got \(12, 1\)"
        ),
    ),
)
