"""msca_block: sample inputs and promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels.ops.msca_block import op, reference
from segnext_kernels.spec import STAGES, STRIPS, BadInput, Draw, Sample, Spec, samples


def _build(
    draw: Draw, n: int, c: int, h: int, w: int, strips: Sequence[int] = STRIPS, bias: bool = True
) -> tuple[Any, ...]:
    return (
        draw.image(n, c, h, w),
        *(draw.weight(c, c, 1, 1), draw.normal(c)),
        *(draw.weight(c, 1, 5, 5), draw.optional(bias, c)),
        *draw.strips(c, strips),
        [draw.normal(c) for _ in strips] if bias else [],
        [draw.normal(c) for _ in strips] if bias else [],
        *(draw.weight(c, c, 1, 1), draw.normal(c)),
        *(draw.weight(c, c, 1, 1), draw.normal(c)),
        *(draw.normal(c), draw.normal(c)),
    )


SPEC = Spec(
    name=op.NAME,
    public=op.msca_block,
    reference=reference.msca_block,
    differentiable=(),
    calls=("msca_conv",),
    matrix_products=True,
    tiles_by_programs=True,
    samples=samples(
        _build,
        # W differs from every K: torch.compile would treat sizes that happen to be equal as one symbol.
        c8_h9w6=dict(n=2, c=8, h=9, w=6),
        c32_h31w17=dict(n=1, c=32, h=31, w=17),
        c20_h5w13=dict(n=2, c=20, h=5, w=13),
        c1_h4w5=dict(n=2, c=1, h=4, w=5),
        c16_h1w1=dict(n=2, c=16, h=1, w=1),
        n0_c8_h6w5=dict(n=0, c=8, h=6, w=5),
        c8_h9w6_no_bias=dict(n=1, c=8, h=9, w=6, bias=False),
        c8_h7w6_no_strips=dict(n=2, c=8, h=7, w=6, strips=()),
    ),
    model_shapes=tuple(
        Sample(f"{stage}-c{c}-h{side}w{side}", _build, dict(n=1, c=c, h=side, w=side))
        for stage, (c, side, _) in STAGES.items()
    ),
    bad_inputs=(
        BadInput(
            "x-axes",
            {"x": torch.zeros(8, 9, 7)},
            ValueError,
            r"x must be \(N, C, H, W\), got shape \(8, 9, 7\)",
        ),
        BadInput(
            "x-dtype", {"x": torch.zeros(2, 8, 9, 7).bool()}, TypeError, r"x must be float16.*, got bool"
        ),
        BadInput(
            "proj-in-channels",
            {"proj_in_weight": torch.zeros(16, 8, 1, 1)},
            ValueError,
            r"proj_in_weight must be \(8, 8, 1, 1\), got \(16, 8, 1, 1\); x is \(2, 8, 9, 6\)",
        ),
        BadInput("mix-none", {"mix_weight": None}, TypeError, r"mix_weight must be a tensor .*, got None"),
        BadInput("mix-bias-none", {"mix_bias": None}, TypeError, r"mix_bias must be a tensor .*, got None"),
        BadInput(
            "columns-count",
            {"column_weights": [torch.zeros(8, 1, 7, 1)]},
            ValueError,
            r"column_weights must be as many as row_weights \(3\), got 1",
        ),
        BadInput(
            "skip-dtype",
            {"skip_scale": torch.zeros(8).double()},
            TypeError,
            r"skip_scale must be float32 as x, got float64; convert it",
        ),
        BadInput(
            "skip-device",
            {"skip_shift": torch.zeros(8, device="meta")},
            ValueError,
            r"skip_shift must be on cpu as x, got meta",
        ),
    ),
)
