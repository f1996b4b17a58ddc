"""group_norm_act: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.memory_format import accumulator_dtype
from segnext_kernels.ops.group_norm_act import op, reference
from segnext_kernels.spec import BadInput, Draw, Sample, Spec, samples


def _build(
    draw: Draw,
    n: int,
    c: int,
    groups: int,
    h: int,
    w: int,
    residual: bool = False,
    act: str = "relu",
    wide_affine: bool = False,
    offset: float = 0.0,
) -> tuple[Any, ...]:
    affine = accumulator_dtype(draw.dtype) if wide_affine else draw.dtype
    return (
        draw.image(n, c, h, w) + offset,
        groups,
        (draw.normal(c, scale=0.5) + 1).to(affine),
        draw.normal(c).to(affine),
        1e-5,
        draw.image(n, c, h, w) if residual else None,
        act,
    )


def _decoder(c: int) -> tuple[Sample, ...]:
    """Norms of a LightHam decoder of width c at 512x512: squeeze and align (relu), hamburger (residual)."""
    sizes = dict(n=1, c=c, groups=32, h=64, w=64)
    return (
        Sample(f"c{c}-h64w64-relu", _build, sizes),
        Sample(f"c{c}-h64w64-residual", _build, {**sizes, "residual": True}),
    )


MODEL_SHAPES = (*_decoder(256), *_decoder(512))

SPEC = Spec(
    name=op.NAME,
    public=op.group_norm_act,
    reference=reference.group_norm_act,
    differentiable=("x", "weight", "bias", "residual"),
    samples=samples(
        _build,
        c8_g2_h9w7_residual=dict(n=2, c=8, groups=2, h=9, w=7, residual=True),
        c64_g32_h31w17=dict(n=1, c=64, groups=32, h=31, w=17),
        c20_g5_h5w13_none=dict(n=2, c=20, groups=5, h=5, w=13, act="none"),
        c12_g3_h4w5_none_residual=dict(n=2, c=12, groups=3, h=4, w=5, act="none", residual=True),
        c6_g6_h3w4_fp32_affine=dict(n=2, c=6, groups=6, h=3, w=4, wide_affine=True),
        c8_g1_h6w5_mean30=dict(n=2, c=8, groups=1, h=6, w=5, offset=30.0),
        c1_g1_h4w5=dict(n=2, c=1, groups=1, h=4, w=5),
        c16_g4_h1w1=dict(n=2, c=16, groups=4, h=1, w=1),
        c3_g1_h2w2=dict(n=2, c=3, groups=1, h=2, w=2, residual=True),
        n0_c8_g2_h6w5=dict(n=0, c=8, groups=2, h=6, w=5, residual=True),
    ),
    model_shapes=MODEL_SHAPES,
    modelled_shapes=(MODEL_SHAPES[0].resized(n=32),),
    cuda_edges=samples(
        _build,
        c32_h9w8_vectors=dict(n=2, c=32, groups=8, h=9, w=8, residual=True),
        c64_h23w24_several_chunks=dict(n=1, c=64, groups=4, h=23, w=24, residual=True),
        c20_h5w7_odd_channels_and_pixels=dict(n=2, c=20, groups=5, h=5, w=7, residual=True),
        c6_h3w5_one_group=dict(n=3, c=6, groups=1, h=3, w=5, residual=True),
        c128_h9w8_slabs=dict(n=2, c=128, groups=16, h=9, w=8, residual=True),
        c264_h3w3_slabs_groups_across_vectors=dict(n=1, c=264, groups=4, h=3, w=3, residual=True),
        c1032_h2w3_more_vectors_than_threads=dict(n=1, c=1032, groups=1, h=2, w=3, residual=True),
        c265_h2w3_more_channels_than_threads=dict(n=1, c=265, groups=1, h=2, w=3, residual=True),
        c16_h6w8_float32_parameters=dict(
            n=2, c=16, groups=4, h=6, w=8, residual=True, act="none", wide_affine=True
        ),
        c32_h23w24_mean100=dict(n=1, c=32, groups=4, h=23, w=24, residual=True, offset=100.0),
    ),
    tiled={
        torch.channels_last: dict(n=1, c=72, groups=6, h=7, w=9, residual=True),
        torch.contiguous_format: dict(n=1, c=12, groups=6, h=7, w=9, residual=True),
    },
    bad_inputs=(
        BadInput(
            "x-axes", {"x": torch.zeros(8, 9)}, ValueError, r"x must be \(N, C, H, W\), got shape \(8, 9\)"
        ),
        BadInput(
            "x-dtype", {"x": torch.zeros(2, 8, 9, 7).int()}, TypeError, r"x must be float16.*, got int32"
        ),
        BadInput(
            "groups", {"groups": 3}, ValueError, r"groups must be a divisor of the 8 channels of x, got 3"
        ),
        BadInput(
            "groups-zero",
            {"groups": 0},
            ValueError,
            r"groups must be a divisor of the 8 channels of x, got 0",
        ),
        BadInput(
            "weight-shape", {"weight": torch.zeros(2)}, ValueError, r"weight must be \(8,\), got \(2,\)"
        ),
        BadInput("weight-none", {"weight": None}, TypeError, r"weight must be a tensor .*, got None"),
        BadInput(
            "weight-dtype",
            {"weight": torch.zeros(8).half()},
            TypeError,
            r"weight and bias must both be float32 as x, got float16 and float32",
        ),
        BadInput(
            "residual-shape",
            {"residual": torch.zeros(2, 8, 7, 9)},
            ValueError,
            r"residual must be \(2, 8, 9, 7\), got \(2, 8, 7, 9\); a residual has x's shape",
        ),
        BadInput(
            "residual-device",
            {"residual": torch.zeros(2, 8, 9, 7, device="meta")},
            ValueError,
            r"residual must be on cpu as x, got meta",
        ),
        BadInput("act", {"act": "gelu"}, ValueError, r"act must be 'relu' or 'none', got 'gelu'"),
    ),
)
