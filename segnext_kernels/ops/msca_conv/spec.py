"""msca_conv: sample inputs and promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels.ops.msca_conv import op, reference
from segnext_kernels.spec import STAGES, STRIPS, BadInput, Draw, Sample, Spec, samples


def _build(
    draw: Draw,
    n: int,
    c: int,
    h: int,
    w: int,
    root: int = 5,
    strips: Sequence[int] = STRIPS,
    root_bias: bool = True,
    row_biases: bool = True,
    column_biases: bool = True,
) -> tuple[Any, ...]:
    return (
        draw.image(n, c, h, w),
        draw.weight(c, 1, root, root),
        draw.optional(root_bias, c),
        *draw.strips(c, strips),
        [draw.normal(c) for _ in strips] if row_biases else [],
        [draw.normal(c) for _ in strips] if column_biases else [],
    )


MODEL_SHAPES = tuple(
    Sample(f"{stage}-c{c}-h{side}w{side}", _build, dict(n=1, c=c, h=side, w=side))
    for stage, (c, side, _) in STAGES.items()
)
OF_T = MODEL_SHAPES[:4]

SPEC = Spec(
    name=op.NAME,
    public=op.msca_conv,
    reference=reference.msca_conv,
    differentiable=op.PARAMETERS,
    samples=samples(
        _build,
        # W differs from every K: torch.compile would treat sizes that happen to be equal as one symbol.
        c8_h9w6=dict(n=2, c=8, h=9, w=6),
        c32_h31w17=dict(n=1, c=32, h=31, w=17),
        c20_h13w24=dict(n=2, c=20, h=13, w=24),
        c3_h5w4_below_kernel=dict(n=2, c=3, h=5, w=4),
        c1_h6w5=dict(n=2, c=1, h=6, w=5),
        c16_h1w1=dict(n=2, c=16, h=1, w=1),
        c8_h1w23=dict(n=1, c=8, h=1, w=23),
        c8_h23w1=dict(n=1, c=8, h=23, w=1),
        n0_c8_h6w5=dict(n=0, c=8, h=6, w=5),
        c8_h9w6_no_bias=dict(n=1, c=8, h=9, w=6, root_bias=False, row_biases=False, column_biases=False),
        c8_h9w6_root_bias=dict(n=1, c=8, h=9, w=6, row_biases=False, column_biases=False),
        c8_h9w6_row_biases=dict(n=1, c=8, h=9, w=6, root_bias=False, column_biases=False),
        c8_h9w6_column_biases=dict(n=1, c=8, h=9, w=6, row_biases=False),
        c8_h9w6_strip_biases=dict(n=1, c=8, h=9, w=6, root_bias=False),
        c8_h7w6_no_strips=dict(n=2, c=8, h=7, w=6, strips=()),
        c8_h8w9_root7_one_strip=dict(n=2, c=8, h=8, w=9, root=7, strips=(3,)),
        c2_h4w3_root3_strips_1_5=dict(n=2, c=2, h=4, w=3, root=3, strips=(1, 5)),
    ),
    model_shapes=MODEL_SHAPES,
    target_shapes=samples(
        _build,
        t1_c32_h256w512=dict(n=1, c=32, h=256, w=512),  # at 1024x2048
        b1_c64_h128w128_n32=dict(n=32, c=64, h=128, w=128),
    ),
    modelled_shapes=(
        *(shape.resized(n=32) for shape in OF_T),
        *(
            shape.resized(h=h >> stage, w=2 * h >> stage)  # 768x1536 and 1024x2048
            for h in (384, 512)
            for stage, shape in enumerate(OF_T, start=1)
        ),
    ),
    tiled={
        torch.channels_last: dict(n=1, c=66, h=3, w=9, root=3, strips=(3, 5)),
        torch.contiguous_format: dict(n=1, c=10, h=3, w=9, root=3, strips=(3, 5)),
    },
    cuda_edges=samples(
        _build,
        c24_h18w37_tiles_strips_slices=dict(n=1, c=24, h=18, w=37),
        c8_h6w5_five_pairs=dict(n=1, c=8, h=6, w=5, strips=(3, 9, 1, 5, 13)),
        c3_h5w4_root1=dict(n=1, c=3, h=5, w=4, root=1, strips=(3, 7)),
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
        BadInput("x-type", {"x": [1.0]}, TypeError, r"x must be a tensor of shape \(N, C, H, W\), got list"),
        BadInput(
            "x-empty", {"x": torch.zeros(2, 8, 0, 7)}, ValueError, r"x must have no empty axis but the batch"
        ),
        BadInput(
            "root-not-depthwise",
            {"root_weight": torch.zeros(8, 8, 5, 5)},
            ValueError,
            r"root_weight must be \(8, 1, K, K\), got \(8, 8, 5, 5\); .*singleton second axis",
        ),
        BadInput(
            "root-even",
            {"root_weight": torch.zeros(8, 1, 4, 4)},
            ValueError,
            r"root_weight must have odd kernel sizes",
        ),
        BadInput("root-none", {"root_weight": None}, TypeError, r"root_weight must be a tensor .*, got None"),
        BadInput(
            "root-device",
            {"root_weight": torch.zeros(8, 1, 5, 5, device="meta")},
            ValueError,
            r"root_weight must be on cpu as x, got meta",
        ),
        BadInput(
            "root-bias-shape",
            {"root_bias": torch.zeros(7)},
            ValueError,
            r"root_bias must be \(8,\), got \(7,\)",
        ),
        BadInput(
            "root-bias-dtype",
            {"root_bias": torch.zeros(8).half()},
            TypeError,
            r"root_bias must be float32 as x, got float16; convert it",
        ),
        BadInput(
            "columns-count",
            {"column_weights": [torch.zeros(8, 1, 7, 1)] * 2},
            ValueError,
            r"column_weights must be as many as row_weights \(3\), got 2",
        ),
        BadInput(
            "rows-turned",
            {"row_weights": [torch.zeros(8, 1, 7, 1)] * 3},
            ValueError,
            r"row_weights\[0\] must be \(8, 1, 1, K\), got \(8, 1, 7, 1\)",
        ),
        BadInput(
            "columns-turned",
            {"column_weights": [torch.zeros(8, 1, 1, 7)] * 3},
            ValueError,
            r"column_weights\[0\] must be \(8, 1, K, 1\), got \(8, 1, 1, 7\)",
        ),
        BadInput(
            "row-biases-count",
            {"row_biases": [torch.zeros(8)]},
            ValueError,
            r"row_biases must be empty or as many as row_weights \(3\), got 1",
        ),
        BadInput(
            "column-biases-count",
            {"column_biases": [torch.zeros(8)]},
            ValueError,
            r"column_biases must be empty or as many as row_weights \(3\), got 1",
        ),
    ),
)
