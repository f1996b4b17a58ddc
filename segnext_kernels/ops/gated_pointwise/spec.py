"""gated_pointwise: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.ops.gated_pointwise import op, reference
from segnext_kernels.spec import STAGES, BadInput, Draw, Sample, Spec, samples


def _build(draw: Draw, n: int, ci: int, co: int, h: int, w: int, bias: bool = True) -> tuple[Any, ...]:
    return (
        draw.image(n, ci, h, w),
        draw.image(n, co, h, w),
        draw.weight(co, ci, 1, 1),
        draw.optional(bias, co),
    )


MODEL_SHAPES = tuple(
    Sample(f"{stage}-c{c}-h{side}w{side}", _build, dict(n=1, ci=c, co=c, h=side, w=side))
    for stage, (c, side, _) in STAGES.items()
)

SPEC = Spec(
    name=op.NAME,
    public=op.gated_pointwise,
    reference=reference.gated_pointwise,
    differentiable=("m", "u", "weight", "bias"),
    matrix_products=True,
    samples=samples(
        _build,
        c8_h9w7=dict(n=2, ci=8, co=8, h=9, w=7),
        c64_h31w17=dict(n=1, ci=64, co=64, h=31, w=17),
        ci20_co12_h5w13=dict(n=2, ci=20, co=12, h=5, w=13),
        ci3_co7_h4w3=dict(n=2, ci=3, co=7, h=4, w=3),
        ci1_co2_h3w2=dict(n=2, ci=1, co=2, h=3, w=2),
        ci8_co1_h3w5=dict(n=2, ci=8, co=1, h=3, w=5),
        c16_h1w1=dict(n=2, ci=16, co=16, h=1, w=1),
        n0_c8_h6w5=dict(n=0, ci=8, co=8, h=6, w=5),
        c8_h9w6_no_bias=dict(n=1, ci=8, co=8, h=9, w=6, bias=False),
    ),
    model_shapes=MODEL_SHAPES,
    modelled_shapes=(MODEL_SHAPES[0].resized(n=32),),
    # a tile is 128 pixels x 64 channels; a stage holds 32 (16 in float32) terms of a sum
    cuda_edges=samples(
        _build,
        ci64_h8w16_whole_tiles=dict(n=1, ci=64, co=64, h=8, w=16),
        ci20_h3w5_tails=dict(n=3, ci=20, co=12, h=3, w=5),
        ci37_h11w13_ragged_tiles=dict(n=2, ci=37, co=70, h=11, w=13),
        ci104_h5w7_vectors_with_a_tail=dict(n=1, ci=104, co=72, h=5, w=7),
        ci1_co1_h3w2=dict(n=2, ci=1, co=1, h=3, w=2),
        ci16_h1w1_three_images=dict(n=3, ci=16, co=24, h=1, w=1),
    ),
    bad_inputs=(
        BadInput(
            "m-axes", {"m": torch.zeros(8, 9)}, ValueError, r"m must be \(N, Ci, H, W\), got shape \(8, 9\)"
        ),
        BadInput(
            "m-dtype", {"m": torch.zeros(2, 8, 9, 7).long()}, TypeError, r"m must be float16.*, got int64"
        ),
        BadInput(
            "u-none", {"u": None}, TypeError, r"u must be a tensor of shape \(N, Co, H, W\), got NoneType"
        ),
        BadInput(
            "u-pixels",
            {"u": torch.zeros(2, 8, 9, 8)},
            ValueError,
            r"u must be \(2, Co, 9, 7\), got \(2, 8, 9, 8\); m is \(2, 8, 9, 7\)",
        ),
        BadInput(
            "u-dtype",
            {"u": torch.zeros(2, 8, 9, 7).double()},
            TypeError,
            r"u must be float32 as m, got float64",
        ),
        BadInput(
            "weight-channels",
            {"weight": torch.zeros(8, 4, 1, 1)},
            ValueError,
            r"weight must be \(8, 8, 1, 1\), got \(8, 4, 1, 1\); m is",
        ),
        BadInput("weight-none", {"weight": None}, TypeError, r"weight must be a tensor .*, got None"),
        BadInput(
            "weight-device",
            {"weight": torch.zeros(8, 8, 1, 1, device="meta")},
            ValueError,
            r"weight must be on cpu as m, got meta",
        ),
        BadInput("bias-shape", {"bias": torch.zeros(8, 1)}, ValueError, r"bias must be \(8,\), got \(8, 1\)"),
    ),
)
