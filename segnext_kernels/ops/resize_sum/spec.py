"""resize_sum: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.ops.resize_sum import op, reference
from segnext_kernels.spec import BadInput, Draw, Sample, Spec, samples


def _build(
    draw: Draw,
    n: int,
    c: int,
    h: int,
    w: int,
    others: tuple[tuple[int, int], ...],
    align_corners: bool = False,
) -> tuple[Any, ...]:
    return draw.image(n, c, h, w), [draw.image(n, c, *size) for size in others], align_corners


def _decoder(name: str, c: int) -> Sample:
    """The sum after `squeeze` at 512x512."""
    return Sample(f"{name}-c{c}-h64w64", _build, dict(n=1, c=c, h=64, w=64, others=((32, 32), (16, 16))))


SPEC = Spec(
    name=op.NAME,
    public=op.resize_sum,
    reference=reference.resize_sum,
    differentiable=(),
    samples=samples(
        _build,
        c20_h9w7_2=dict(n=2, c=20, h=9, w=7, others=((5, 4), (3, 2))),
        c64_h8w12_half=dict(n=1, c=64, h=8, w=12, others=((4, 6),)),
        c16_h5w6_down=dict(n=2, c=16, h=5, w=6, others=((11, 13), (2, 9), (5, 7))),
        c36_h4w4_same=dict(n=1, c=36, h=4, w=4, others=((4, 4), (1, 1))),
        c1_h4w5=dict(n=2, c=1, h=4, w=5, others=((2, 3),)),
        c8_h1w1=dict(n=2, c=8, h=1, w=1, others=((1, 1), (1, 1))),
        c70_h3w2=dict(n=1, c=70, h=3, w=2, others=((2, 1), (1, 1))),
        c6_h3w5_alone=dict(n=1, c=6, h=3, w=5, others=()),
        c6_h3w5_four=dict(n=1, c=6, h=3, w=5, others=((2, 2), (2, 3), (1, 2), (2, 1))),
        n0_c8_h6w5=dict(n=0, c=8, h=6, w=5, others=((3, 3),)),
        c20_h9w7_aligned=dict(n=2, c=20, h=9, w=7, others=((5, 4), (1, 1)), align_corners=True),
    ),
    model_shapes=(_decoder("t", 256), _decoder("b", 512)),
    bad_inputs=(
        BadInput(
            "base-axes", {"base": torch.zeros(20, 9)}, ValueError, r"base must be \(N, C, H, W\), got shape"
        ),
        BadInput(
            "others-axes",
            {"others": [torch.zeros(20, 9)]},
            ValueError,
            r"others\[0\] must be \(N, C, h, w\), got shape",
        ),
        BadInput(
            "others-channels",
            {"others": [torch.zeros(2, 19, 9, 7)]},
            ValueError,
            r"others\[0\] must be \(2, 20, h, w\), got \(2, 19, 9, 7\); base is \(2, 20, 9, 7\)",
        ),
        BadInput(
            "others-dtype",
            {"others": [torch.zeros(2, 20, 9, 7).half()]},
            TypeError,
            r"others\[0\] must be float32 as base, got float16",
        ),
        BadInput(
            "others-none", {"others": [None]}, TypeError, r"others\[0\] must be a tensor .*, got NoneType"
        ),
    ),
)
