"""conv2d_act: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.ops.conv2d_act import op, reference
from segnext_kernels.spec import STAGES, BadInput, Draw, Sample, Spec, samples


def _build(
    draw: Draw,
    n: int,
    ci: int,
    co: int,
    h: int,
    w: int,
    kernel: tuple[int, int] = (3, 3),
    stride: int = 2,
    padding: int = 1,
    bias: bool = True,
    act: str = "none",
    image: bool = False,
    float32_out: bool = False,
    channels_last: bool = False,
    inner: bool = False,
) -> tuple[Any, ...]:
    x, weight = draw.image(n, ci, h, w), draw.weight(co, ci, *kernel)
    return (
        x.float() if image and draw.dtype != torch.float64 else x,
        weight.contiguous(memory_format=torch.channels_last) if inner else weight,
        draw.optional(bias, co),
        stride,
        padding,
        act,
        float32_out,
        channels_last,
    )


POINT = dict(kernel=(1, 1), stride=1, padding=0)


def _model(size: str) -> tuple[Sample, ...]:
    """The deployed model's dense convolutions at 512x512: stem, downsampling, decoder."""
    widths = [STAGES[f"{size}{stage}"][:2] for stage in (1, 2, 3, 4)]
    (first, side), decoder = widths[0], 256 if size == "t" else 512
    image = dict(n=1, ci=3, co=first // 2, h=4 * side, w=4 * side, act="gelu", image=True, inner=True)
    found = [
        Sample(f"{size}-stem0", _build, {**image, "channels_last": True}),
        Sample(
            f"{size}-stem1", _build, dict(n=1, ci=first // 2, co=first, h=2 * side, w=2 * side, inner=True)
        ),
    ]
    for index, ((ci, large), (co, _)) in enumerate(zip(widths, widths[1:], strict=False)):
        found.append(
            Sample(f"{size}-down{index}", _build, dict(n=1, ci=ci, co=co, h=large, w=large, inner=True))
        )
    for index, (ci, small) in enumerate(widths[1:]):
        sizes = dict(n=1, ci=ci, co=decoder, h=small, w=small, bias=False, **POINT)
        found.append(Sample(f"{size}-squeeze{index}", _build, sizes))
    eighth = dict(n=1, ci=decoder, h=side // 2, w=side // 2, **POINT)
    return (
        *found,
        Sample(f"{size}-proj-in", _build, {**eighth, "co": decoder, "act": "relu"}),
        Sample(f"{size}-classifier", _build, {**eighth, "co": 150, "float32_out": True}),
    )


SPEC = Spec(
    name=op.NAME,
    public=op.conv2d_act,
    reference=reference.conv2d_act,
    differentiable=(),
    matrix_products=True,
    samples=samples(
        _build,
        c3_to_8_h11w9_gelu=dict(n=2, ci=3, co=8, h=11, w=9, act="gelu"),
        c3_to_16_h7w6_image=dict(n=2, ci=3, co=16, h=7, w=6, act="gelu", image=True),
        c16_to_20_h9w7=dict(n=2, ci=16, co=20, h=9, w=7),
        c32_to_24_h5w6_relu=dict(n=1, ci=32, co=24, h=5, w=6, act="relu", inner=True),
        c20_to_70_h4w3_unbiased=dict(n=1, ci=20, co=70, h=4, w=3, bias=False),
        c17_to_5_k3x5_stride1=dict(n=1, ci=17, co=5, h=6, w=7, kernel=(3, 5), stride=1, padding=2),
        c2_to_3_k2x3_stride3=dict(n=2, ci=2, co=3, h=8, w=9, kernel=(2, 3), stride=3, padding=0),
        c19_to_7_k1_stride2=dict(n=1, ci=19, co=7, h=5, w=4, kernel=(1, 1), stride=2, padding=0),
        c20_to_18_point_relu=dict(n=2, ci=20, co=18, h=5, w=7, act="relu", **POINT),
        c24_to_11_point_float32=dict(n=1, ci=24, co=11, h=4, w=7, float32_out=True, **POINT),
        c4_to_6_point_image=dict(n=1, ci=4, co=6, h=4, w=7, image=True, **POINT),
        c8_to_6_h5w4_float32=dict(n=1, ci=8, co=6, h=5, w=4, float32_out=True),
        c3_to_8_h1w1=dict(n=2, ci=3, co=8, h=1, w=1),
        c16_to_8_h1w1_point=dict(n=2, ci=16, co=8, h=1, w=1, **POINT),
        c1_to_1_h4w5=dict(n=1, ci=1, co=1, h=4, w=5),
        n0_c3_to_8_h6w5=dict(n=0, ci=3, co=8, h=6, w=5),
    ),
    model_shapes=(*_model("t"), *_model("b")),
    bad_inputs=(
        BadInput("x-axes", {"x": torch.zeros(3, 9)}, ValueError, r"x must be \(N, Ci, H, W\), got shape"),
        BadInput(
            "x-dtype", {"x": torch.zeros(2, 3, 11, 9).int()}, TypeError, r"x must be float16.*, got int32"
        ),
        BadInput(
            "weight-channels",
            {"weight": torch.zeros(8, 4, 3, 3)},
            ValueError,
            r"weight must be \(Co, 3, Kh, Kw\), got \(8, 4, 3, 3\); x is \(2, 3, 11, 9\)",
        ),
        BadInput(
            "weight-dtype",
            {"x": torch.zeros(2, 3, 11, 9).half()},
            TypeError,
            r"weight must be float16 as x, got float32",
        ),
        BadInput(
            "bias-shape", {"bias": torch.zeros(3)}, ValueError, r"bias must be \(8,\), got \(3,\); weight is"
        ),
        BadInput("stride", {"stride": 0}, ValueError, r"stride must be at least 1, got 0"),
        BadInput(
            "stride-float", {"stride": 1.0}, TypeError, r"stride must be an integer, at least 1, got 1\.0"
        ),
        BadInput("act", {"act": "silu"}, ValueError, r"act must be 'none' or 'relu' or 'gelu', got 'silu'"),
        BadInput(
            "too-large",
            {"weight": torch.zeros(8, 3, 14, 3)},
            ValueError,
            r"weight must be no larger than the padded x, got \(8, 3, 14, 3\) for \(2, 3, 11, 9\) padded by 1",
        ),
    ),
)
