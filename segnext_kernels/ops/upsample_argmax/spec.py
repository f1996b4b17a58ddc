"""upsample_argmax: sample inputs and promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from segnext_kernels.ops.upsample_argmax import op, reference
from segnext_kernels.spec import BadInput, Draw, Sample, Spec, samples


def _build(
    draw: Draw,
    n: int,
    k: int,
    h: int,
    w: int,
    size: tuple[int, int],
    smooth: bool = False,
    scale: float = 1.0,
    align_corners: bool = False,
) -> tuple[Any, ...]:
    """Noise, for which every cell must be interpolated, or smooth fields, in which most cells have one winner."""
    if not smooth:
        return draw.image(n, k, h, w) * scale, list(size), align_corners
    coarse = draw.wide_normal(n, k, 3, 3) * scale
    logits = F.interpolate(coarse, size=(h, w), mode="bicubic")
    return logits.to(draw.device, draw.dtype).contiguous(memory_format=draw.layout), list(size), align_corners


def _pixels(logits: torch.Tensor, size: Sequence[int], *_: Any) -> int:
    return logits.shape[0] * size[0] * size[1]


MODEL_SHAPES = (
    Sample("ade20k-k150-h64w64-to-512x512", _build, dict(n=1, k=150, h=64, w=64, size=(512, 512))),
    Sample("ade20k-k150-h64w64-smooth", _build, dict(n=1, k=150, h=64, w=64, size=(512, 512), smooth=True)),
    Sample(
        "cityscapes-k19-h128w256-smooth",
        _build,
        dict(n=1, k=19, h=128, w=256, size=(1024, 2048), smooth=True),
    ),
)

SPEC = Spec(
    name=op.NAME,
    public=op.upsample_argmax,
    reference=reference.upsample_argmax,
    differentiable=(),
    samples=samples(
        _build,
        k6_h9w7_up=dict(n=2, k=6, h=9, w=7, size=(23, 20)),
        k19_h16w16_x8=dict(n=1, k=19, h=16, w=16, size=(128, 128), smooth=True),
        k11_h13w24_up=dict(n=2, k=11, h=13, w=24, size=(50, 61), smooth=True),
        k150_h8w9_x8=dict(n=1, k=150, h=8, w=9, size=(64, 72), smooth=True),
        k21_h31w17_down=dict(n=1, k=21, h=31, w=17, size=(12, 7)),
        k7_h9w8_down_up=dict(n=1, k=7, h=9, w=8, size=(5, 31)),
        k5_h6w7_same=dict(n=2, k=5, h=6, w=7, size=(6, 7)),
        k256_h3w4_uint8=dict(n=1, k=256, h=3, w=4, size=(9, 10)),
        k300_h5w4_int32=dict(n=1, k=300, h=5, w=4, size=(13, 11)),
        k300_h5w4_smooth=dict(n=1, k=300, h=5, w=4, size=(13, 11), smooth=True),
        k2_h5w6_large=dict(n=1, k=2, h=5, w=6, size=(21, 22), scale=1e4),
        k1_h3w2_up=dict(n=2, k=1, h=3, w=2, size=(7, 5)),
        k4_h1w1_up=dict(n=2, k=4, h=1, w=1, size=(5, 3)),
        k4_h7w5_to_1x1=dict(n=2, k=4, h=7, w=5, size=(1, 1)),
        k6_h5w4_ties=dict(n=1, k=6, h=5, w=4, size=(17, 13), scale=0.0),
        n0_k6_h4w5=dict(n=0, k=6, h=4, w=5, size=(9, 8)),
        k6_h9w7_aligned=dict(n=2, k=6, h=9, w=7, size=(23, 20), align_corners=True),
        k5_h4w7_to_1x1_aligned=dict(n=1, k=5, h=4, w=7, size=(1, 1), align_corners=True),
    ),
    model_shapes=MODEL_SHAPES,
    target_shapes=samples(
        _build, n16_k19_h128w256_smooth=dict(n=16, k=19, h=128, w=256, size=(1024, 2048), smooth=True)
    ),
    modelled_shapes=(MODEL_SHAPES[2].resized(n=16),),
    program_per_pixel=True,
    # stores are of 1, 4 or 16 bytes, copies of one element or 16 bytes; a tile's shared memory holds rows of classes
    cuda_edges=samples(
        _build,
        k19_four_tiles=dict(n=2, k=19, h=9, w=5, size=(35, 40)),
        k16_copies_by_16_bytes=dict(n=1, k=16, h=6, w=8, size=(48, 64)),
        k19_stores_by_byte=dict(n=1, k=19, h=5, w=4, size=(23, 21)),
        k3_cells_wider_than_a_warp=dict(n=1, k=3, h=1, w=2, size=(21, 90)),
        k300_h2w3_int32=dict(n=1, k=300, h=2, w=3, size=(7, 5)),
        k5_h8w8_same=dict(n=1, k=5, h=8, w=8, size=(8, 8)),
        k1_h1w1_up=dict(n=3, k=1, h=1, w=1, size=(4, 3)),
        k400_tiles_of_few_rows=dict(n=1, k=400, h=9, w=17, size=(9, 18)),
        k40_direct=dict(n=1, k=40, h=9, w=11, size=(5, 4)),
        k300_direct_int32=dict(n=1, k=300, h=9, w=3, size=(5, 12)),
    ),
    tiled=dict.fromkeys(
        (torch.channels_last, torch.contiguous_format), dict(n=1, k=70, h=2, w=3, size=(19, 30))
    ),
    elements=_pixels,
    bad_inputs=(
        BadInput(
            "logits-axes",
            {"logits": torch.zeros(6, 9, 7)},
            ValueError,
            r"logits must be \(N, K, h, w\), got shape",
        ),
        BadInput(
            "logits-dtype",
            {"logits": torch.zeros(1, 6, 9, 7).int()},
            TypeError,
            r"logits must be float16.*, got int32",
        ),
        BadInput("logits-none", {"logits": None}, TypeError, r"logits must be a tensor .*, got NoneType"),
        BadInput(
            "logits-empty",
            {"logits": torch.zeros(1, 6, 0, 7)},
            ValueError,
            r"logits must have no empty axis but",
        ),
        BadInput("size-number", {"size": 23}, ValueError, r"size must be \(H, W\), got 23"),
        BadInput("size-three", {"size": (1, 2, 3)}, ValueError, r"size must be \(H, W\), got \(1, 2, 3\)"),
        BadInput(
            "size-zero", {"size": (0, 20)}, ValueError, r"size must be at least \(1, 1\), got \(0, 20\)"
        ),
        BadInput(
            "size-fraction", {"size": (4.5, 20)}, TypeError, r"size must be two integers, got \(4.5, 20\)"
        ),
    ),
)
