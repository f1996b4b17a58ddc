"""depthwise_sum: sample inputs and promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels.ops.depthwise_sum import op, reference
from segnext_kernels.spec import BadInput, Draw, Spec, samples

Kernel = Sequence[int]  # (Kh, Kw), or (Kh, Kw, dilation of y, dilation of x)


def _build(
    draw: Draw,
    n: int,
    c: int,
    h: int,
    w: int,
    branches: Sequence[Sequence[Kernel]],
    root: Sequence[Kernel] = (),
    combine: str = "sum",
    bias: bool = True,
    widths: Sequence[int] = (),
) -> tuple[Any, ...]:
    """``widths``: in "split", the channels of each branch."""
    chains = (root, *branches)
    channels = (c, *(widths or [c] * len(branches)))
    kernels = [(width, *kernel) for width, chain in zip(channels, chains, strict=True) for kernel in chain]
    return (
        draw.image(n, c, h, w),
        [draw.weight(width, 1, *kernel[:2]) for width, *kernel in kernels],
        [draw.normal(width) for width, *_ in kernels] if bias else [],
        [dilation for _, *kernel in kernels for dilation in (kernel[2:] or (1, 1))],
        [len(chain) for chain in chains],
        combine,
    )


def square(*sides: int) -> list[Kernel]:
    """A chain of K x K kernels."""
    return [(side, side) for side in sides]


LKA = dict(branches=[[(5, 5), (7, 7, 3, 3)]])
LSKNET = dict(root=square(5), branches=[[], [(7, 7, 3, 3)]], combine="cat")
LSKA_23 = dict(branches=[[(1, 5), (5, 1), (1, 7, 3, 3), (7, 1, 3, 3)]])
STRIP_RCNN = dict(branches=[[(5, 5), (1, 19), (19, 1)]])
INCEPTIONNEXT = dict(branches=[[], square(3), [(1, 11)], [(11, 1)]], combine="split")
PKINET = dict(root=square(3), branches=[[], square(5), square(7), square(9), square(11)])
CAA = dict(branches=[[(1, 11), (11, 1)]])


def slak(long: int) -> dict[str, Any]:
    """SLaK: two rectangles and a square, each with a BatchNorm in place of a bias."""
    return dict(branches=[[(long, 5)], [(5, long)], square(5)], bias=False)


def replknet(side: int) -> dict[str, Any]:
    """RepLKNet: a large and a small square, each with a BatchNorm in place of a bias."""
    return dict(branches=[square(side), square(5)], bias=False)


def inceptionnext_widths(c: int) -> list[int]:
    """An eighth of the channels for each convolution, the rest unchanged."""
    return [c - 3 * (c // 8), *[c // 8] * 3]


# The published networks' layers, at images of 224x224 unless the name says so: member, stage, channels, map.
MODEL_SHAPES = samples(
    _build,
    van_b0_s1_c32_h56w56=dict(n=1, c=32, h=56, w=56, **LKA),
    van_b0_s2_c64_h28w28=dict(n=1, c=64, h=28, w=28, **LKA),
    van_b0_s3_c160_h14w14=dict(n=1, c=160, h=14, w=14, **LKA),
    van_b0_s4_c256_h7w7=dict(n=1, c=256, h=7, w=7, **LKA),
    van_b0_s1_at_512_c32_h128w128=dict(n=1, c=32, h=128, w=128, **LKA),
    van_b0_s3_at_512_c160_h32w32=dict(n=1, c=160, h=32, w=32, **LKA),
    lsknet_t_s2_at_512_c64_h64w64=dict(n=1, c=64, h=64, w=64, **LSKNET),
    lska_23_s2_c64_h28w28=dict(n=1, c=64, h=28, w=28, **LSKA_23),
    strip_rcnn_s_s2_at_512_c128_h64w64=dict(n=1, c=128, h=64, w=64, **STRIP_RCNN),
    inceptionnext_t_s1_c96_h56w56=dict(
        n=1, c=96, h=56, w=56, widths=inceptionnext_widths(96), **INCEPTIONNEXT
    ),
    inceptionnext_t_s3_c384_h14w14=dict(
        n=1, c=384, h=14, w=14, widths=inceptionnext_widths(384), **INCEPTIONNEXT
    ),
    pkinet_s_s2_at_512_c64_h64w64=dict(n=1, c=64, h=64, w=64, **PKINET),
    pkinet_s_caa_s2_at_512_c64_h64w64=dict(n=1, c=64, h=64, w=64, **CAA),
    slak_t_s2_c192_h28w28=dict(n=1, c=192, h=28, w=28, **slak(49)),
    slak_t_s4_c768_h7w7=dict(n=1, c=768, h=7, w=7, **slak(13)),
    replknet_31b_s3_c512_h14w14=dict(n=1, c=512, h=14, w=14, **replknet(27)),
)

SPEC = Spec(
    name=op.NAME,
    public=op.depthwise_sum_of_lists,
    reference=reference.depthwise_sum,
    differentiable=op.DIFFERENTIABLE,
    samples=samples(
        _build,
        # W differs from every K: torch.compile would treat sizes that happen to be equal as one symbol.
        c8_h9w6=dict(
            n=2,
            c=8,
            h=9,
            w=6,
            root=square(3),
            # few taps, since Triton's interpreter runs more tests on this one
            branches=[[], [(5, 3)], [(1, 5), (5, 1)], [(3, 3, 2, 1)]],
        ),
        c20_h31w17_lka=dict(n=1, c=20, h=31, w=17, **LKA),
        c17_h13w24_cat=dict(n=2, c=17, h=13, w=24, **LSKNET),
        c21_h12w9_split=dict(n=2, c=21, h=12, w=9, widths=[15, 2, 2, 2], **INCEPTIONNEXT),
        c40_h6w7_split_root=dict(
            n=1,
            c=40,
            h=6,
            w=7,
            root=square(3),
            widths=[18, 22],
            branches=[square(3), [(1, 5)]],
            combine="split",
        ),
        c7_h6w5_split_chains=dict(
            n=1,
            c=7,
            h=6,
            w=5,
            widths=[3, 1, 3],
            branches=[[(1, 3), (3, 1)], [], [(3, 3, 1, 2)]],
            combine="split",
            bias=False,
        ),
        c16_h19w22_four_long=dict(n=1, c=16, h=19, w=22, **LSKA_23),
        c8_h9w6_no_bias=dict(n=1, c=8, h=9, w=6, root=square(3), branches=[[], [(1, 3), (3, 1)]], bias=False),
        c3_h5w4_below_kernel=dict(n=2, c=3, h=5, w=4, **PKINET),
        c5_h7w7_51x5=dict(n=1, c=5, h=7, w=7, **slak(51)),
        c2_h6w5_31x31=dict(n=1, c=2, h=6, w=5, **replknet(31)),
        c1_h6w5=dict(n=2, c=1, h=6, w=5, root=square(3), branches=[[], [(1, 3, 1, 2)], [(3, 1, 2, 1)]]),
        c3_h4w5_cat=dict(n=2, c=3, h=4, w=5, branches=[square(3), [(1, 5)]], combine="cat"),
        c16_h1w1=dict(n=2, c=16, h=1, w=1, **STRIP_RCNN),
        c8_h1w23=dict(n=1, c=8, h=1, w=23, **CAA),
        c8_h23w1=dict(n=1, c=8, h=23, w=1, **CAA),
        n0_c8_h6w5=dict(n=0, c=8, h=6, w=5, **LSKNET),
        c4_h6w5_dilated_past_the_image=dict(n=1, c=4, h=6, w=5, branches=[[(3, 5, 7, 9)]]),
        c4_h3w5_kernel_of_one=dict(n=1, c=4, h=3, w=5, root=[(1, 1)], branches=[[(1, 1)], [(1, 1), (3, 1)]]),
        c4_h6w5_root_alone=dict(n=1, c=4, h=6, w=5, root=square(3, 3), branches=[[]]),
        c4_h6w5_doubled=dict(n=1, c=4, h=6, w=5, root=square(3), branches=[[], []]),
        c4_h6w5_identity=dict(n=1, c=4, h=6, w=5, branches=[[]]),
        c4_h6w5_identities_cat=dict(n=1, c=4, h=6, w=5, branches=[[], []], combine="cat"),
        c4_h6w5_identity_split=dict(n=1, c=4, h=6, w=5, branches=[[]], combine="split", widths=[4]),
    ),
    model_shapes=MODEL_SHAPES,
    tiles_by_programs=True,
    tiled={
        torch.channels_last: dict(
            n=1, c=34, h=3, w=18, root=square(3), branches=[[], [(1, 3)], [(3, 1, 2, 1)]]
        ),
        torch.contiguous_format: dict(
            n=1, c=10, h=3, w=34, root=square(3), branches=[[], [(1, 3)], [(3, 1, 2, 1)]]
        ),
    },
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
            "x-empty", {"x": torch.zeros(2, 8, 0, 7)}, ValueError, r"x must have no empty axis but the batch"
        ),
        BadInput(
            "not-depthwise",
            {"weights": [torch.zeros(8, 8, 3, 3)] * 5},
            ValueError,
            r"weights\[0\] must be \(C, 1, Kh, Kw\), got \(8, 8, 3, 3\); .*singleton second axis",
        ),
        BadInput(
            "channels",
            {"weights": [torch.zeros(7, 1, 3, 3)] * 5},
            ValueError,
            r"weights\[0\] must be \(8, 1, Kh, Kw\), got \(7, 1, 3, 3\)",
        ),
        BadInput(
            "even",
            {"weights": [torch.zeros(8, 1, 3, 4)] * 5},
            ValueError,
            r"weights\[0\] must have odd kernel sizes, got \(8, 1, 3, 4\)",
        ),
        BadInput(
            "weight-none", {"weights": [None] * 5}, TypeError, r"weights\[0\] must be a tensor .*, got None"
        ),
        BadInput(
            "weight-device",
            {"weights": [torch.zeros(8, 1, 3, 3, device="meta")] * 5},
            ValueError,
            r"weights\[0\] must be on cpu as x, got meta",
        ),
        BadInput(
            "bias-shape",
            {"biases": [torch.zeros(7)] * 5},
            ValueError,
            r"biases\[0\] must be \(8,\), got \(7,\)",
        ),
        BadInput(
            "bias-dtype",
            {"biases": [torch.zeros(8).half()] * 5},
            TypeError,
            r"biases\[0\] must be float32 as x, got float16; convert it",
        ),
        BadInput(
            "biases-count",
            {"biases": [torch.zeros(8)]},
            ValueError,
            r"biases must be empty or as many as weights \(5\), got 1",
        ),
        BadInput(
            "dilations-count",
            {"dilations": [1] * 5},
            ValueError,
            r"dilations must be two per weight \(10\), got 5",
        ),
        BadInput(
            "dilation-zero",
            {"dilations": [0] * 10},
            ValueError,
            r"dilations\[0\] must be an integer, at least 1, got 0",
        ),
        BadInput(
            "dilation-type",
            {"dilations": [1.5] * 10},
            TypeError,
            r"dilations\[0\] must be an integer, at least 1, got 1.5",
        ),
        BadInput(
            "dilations-type", {"dilations": 1}, TypeError, r"dilations must be a list of integers, got 1"
        ),
        BadInput(
            "chains-sum",
            {"chains": [1, 3]},
            ValueError,
            r"chains must be lengths that add up to the number of weights \(5\), got \[1, 3\]",
        ),
        BadInput(
            "no-branch",
            {"chains": [5]},
            ValueError,
            r"chains must be the length of the root and those of one branch or more, got \[5\]",
        ),
        BadInput(
            "chains-negative",
            {"chains": [6, -1]},
            ValueError,
            r"chains\[1\] must be an integer, at least 0, got -1",
        ),
        BadInput(
            "combine",
            {"combine": "mean"},
            ValueError,
            r"combine must be 'sum' or 'cat' or 'split', got 'mean'",
        ),
        BadInput(
            "split-widths",
            {"combine": "split", "chains": [1, 2, 2]},
            ValueError,
            r"weights\[1\] and the first weights of the other branches must have x's 8 channels together, got 16",
        ),
        BadInput(
            "split-two-empty",
            {"combine": "split", "chains": [5, 0, 0]},
            ValueError,
            r'chains must hold at most one empty branch in "split", got 2',
        ),
    ),
)
