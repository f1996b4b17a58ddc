"""conv_ffn: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.ops.conv_ffn import op, reference
from segnext_kernels.spec import STAGES, BadInput, Draw, Sample, Spec, samples

_TENSORS = ("x", "fc1_weight", "fc1_bias", "dw_weight", "dw_bias", "fc2_weight", "fc2_bias")


def _build(
    draw: Draw, n: int, c: int, e: int, co: int, h: int, w: int, residual: bool = False
) -> tuple[Any, ...]:
    return (
        draw.image(n, c, h, w),
        *(draw.weight(e, c, 1, 1), draw.normal(e)),
        *(draw.weight(e, 1, 3, 3), draw.normal(e)),
        *(draw.weight(co, e, 1, 1), draw.normal(co)),
        residual,
    )


def _hidden_elements(x: torch.Tensor, fc1_weight: torch.Tensor, *_: Any) -> int:
    return x.numel() // x.shape[1] * fc1_weight.shape[0]


MODEL_SHAPES = tuple(
    Sample(
        f"{stage}-c{c}-e{c * expansion}-h{side}w{side}",
        _build,
        dict(n=1, c=c, e=c * expansion, co=c, h=side, w=side),
    )
    for stage, (c, side, expansion) in STAGES.items()
)

SPEC = Spec(
    name=op.NAME,
    public=op.conv_ffn,
    reference=reference.conv_ffn,
    differentiable=_TENSORS,
    calls=("dwconv_gelu",),
    backward_of_products=True,
    matrix_products=True,
    tiles_by_programs=True,
    elements=_hidden_elements,
    samples=samples(
        _build,
        c8_e16_h9w7=dict(n=2, c=8, e=16, co=8, h=9, w=7),
        c16_e128_h31w17=dict(n=1, c=16, e=128, co=16, h=31, w=17),
        c20_e36_h5w13=dict(n=2, c=20, e=36, co=20, h=5, w=13),
        c8_e16_h9w6_residual=dict(n=2, c=8, e=16, co=8, h=9, w=6, residual=True),
        c3_e5_co4_h2w2_below_kernel=dict(n=2, c=3, e=5, co=4, h=2, w=2),
        c1_e4_h4w5=dict(n=2, c=1, e=4, co=1, h=4, w=5),
        c2_e3_h3w2=dict(n=2, c=2, e=3, co=2, h=3, w=2),
        c16_e64_h1w1=dict(n=2, c=16, e=64, co=16, h=1, w=1),
        n0_c8_e16_h6w5=dict(n=0, c=8, e=16, co=8, h=6, w=5),
    ),
    model_shapes=MODEL_SHAPES,
    modelled_shapes=tuple(
        shape.resized(h=384 >> stage, w=768 >> stage)  # T at 768x1536
        for stage, shape in enumerate(MODEL_SHAPES[:4], start=1)
    ),
    # A tile is 16 rows of 14 columns up to 64 channels, 8 rows from there on; a slice is 32 hidden channels up to 128
    # channels, 64 from there on: widths with and without padding, slices with and without a tail.
    cuda_edges=samples(
        _build,
        c32_four_tiles=dict(n=2, c=32, e=72, co=32, h=17, w=15),
        c8_padded=dict(n=1, c=8, e=8, co=16, h=3, w=14),
        c64=dict(n=1, c=64, e=128, co=64, h=5, w=16),
        c40_padded=dict(n=1, c=40, e=72, co=56, h=18, w=5),
        c128=dict(n=1, c=128, e=64, co=128, h=9, w=4),
        c72_padded=dict(n=1, c=72, e=40, co=80, h=4, w=15),
        c160=dict(n=1, c=160, e=64, co=160, h=2, w=15),
        c256=dict(n=1, c=256, e=72, co=256, h=2, w=3),
        c320=dict(n=1, c=320, e=64, co=320, h=1, w=4),
        c24_two_panels=dict(n=1, c=24, e=40, co=40, h=2, w=2),
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
            "fc1-channels",
            {"fc1_weight": torch.zeros(16, 9, 1, 1)},
            ValueError,
            r"fc1_weight must be \(E, 8, 1, 1\), got \(16, 9, 1, 1\); x is \(2, 8, 9, 7\)",
        ),
        BadInput("fc1-none", {"fc1_weight": None}, TypeError, r"fc1_weight must be a tensor .*, got None"),
        BadInput(
            "fc1-bias-none",
            {"fc1_bias": None},
            TypeError,
            r"fc1_bias must be a tensor .*, got None; pass zeros for none",
        ),
        BadInput(
            "dw-channels",
            {"dw_weight": torch.zeros(8, 1, 3, 3)},
            ValueError,
            r"dw_weight must be \(16, 1, 3, 3\), got \(8, 1, 3, 3\); fc1_weight gives 16 channels",
        ),
        BadInput(
            "dw-device",
            {"dw_weight": torch.zeros(16, 1, 3, 3, device="meta")},
            ValueError,
            r"dw_weight must be on cpu as x, got meta",
        ),
        BadInput(
            "fc2-residual",
            {"fc2_weight": torch.zeros(4, 16, 1, 1), "fc2_bias": torch.zeros(4), "residual": True},
            ValueError,
            r"fc2_weight must be \(8, 16, 1, 1\), got \(4, 16, 1, 1\); a residual needs as many channels",
        ),
        BadInput(
            "fc2-bias-dtype",
            {"fc2_bias": torch.zeros(8).double()},
            TypeError,
            r"fc2_bias must be float32 as x, got float64; convert it",
        ),
    ),
)
