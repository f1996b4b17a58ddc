"""dwconv_gelu: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.ops.dwconv_gelu import op, reference
from segnext_kernels.spec import STAGES, BadInput, Draw, Sample, Spec, samples


def _build(draw: Draw, n: int, c: int, h: int, w: int, bias: bool = True) -> tuple[Any, ...]:
    return draw.image(n, c, h, w), draw.weight(c, 1, 3, 3), draw.optional(bias, c)


MODEL_SHAPES = tuple(
    Sample(f"{stage}-c{c * expansion}-h{side}w{side}", _build, dict(n=1, c=c * expansion, h=side, w=side))
    for stage, (c, side, expansion) in STAGES.items()
)

SPEC = Spec(
    name=op.NAME,
    public=op.dwconv_gelu,
    reference=reference.dwconv_gelu,
    differentiable=("x", "weight", "bias"),
    samples=samples(
        _build,
        c8_h9w7=dict(n=2, c=8, h=9, w=7),
        c64_h31w17=dict(n=1, c=64, h=31, w=17),
        c20_h5w13=dict(n=2, c=20, h=5, w=13),
        c150_h34w5=dict(n=1, c=150, h=34, w=5),
        c3_h2w2_below_kernel=dict(n=2, c=3, h=2, w=2),
        c1_h4w5=dict(n=2, c=1, h=4, w=5),
        c16_h1w1=dict(n=2, c=16, h=1, w=1),
        c16_h1w9=dict(n=1, c=16, h=1, w=9),
        n0_c8_h6w5=dict(n=0, c=8, h=6, w=5),
        c8_h9w6_no_bias=dict(n=1, c=8, h=9, w=6, bias=False),
    ),
    model_shapes=MODEL_SHAPES,
    modelled_shapes=(MODEL_SHAPES[0].resized(n=32),),
    tiled={
        torch.channels_last: dict(n=1, c=72, h=9, w=9),
        torch.contiguous_format: dict(n=1, c=12, h=9, w=9),
    },
    cuda_edges=samples(
        _build,
        c40_h11w35_two_tiles=dict(n=1, c=40, h=11, w=35),
        c72_h35w6_strips_and_slices=dict(n=3, c=72, h=35, w=6),
        c18_h6w68_beside_each_other=dict(n=1, c=18, h=6, w=68),
    ),
    bad_inputs=(
        BadInput(
            "x-axes",
            {"x": torch.zeros(8, 9, 7)},
            ValueError,
            r"x must be \(N, C, H, W\), got shape \(8, 9, 7\)",
        ),
        BadInput(
            "x-dtype", {"x": torch.zeros(2, 8, 9, 7).int()}, TypeError, r"x must be float16.*, got int32"
        ),
        BadInput(
            "weight-not-depthwise",
            {"weight": torch.zeros(8, 8, 3, 3)},
            ValueError,
            r"weight must be \(8, 1, 3, 3\), got \(8, 8, 3, 3\); .*singleton second axis",
        ),
        BadInput("weight-none", {"weight": None}, TypeError, r"weight must be a tensor .*, got None"),
        BadInput(
            "weight-dtype",
            {"weight": torch.zeros(8, 1, 3, 3).bfloat16()},
            TypeError,
            r"weight must be float32 as x, got bfloat16; convert it",
        ),
        BadInput("bias-shape", {"bias": torch.zeros(9)}, ValueError, r"bias must be \(8,\), got \(9,\)"),
        BadInput(
            "bias-device",
            {"bias": torch.zeros(8, device="meta")},
            ValueError,
            r"bias must be on cpu as x, got meta",
        ),
    ),
)
