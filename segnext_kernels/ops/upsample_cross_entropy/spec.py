"""upsample_cross_entropy: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.ops.upsample_cross_entropy import op, reference
from segnext_kernels.spec import BadInput, Draw, Sample, Spec, samples


def _build(
    draw: Draw,
    n: int,
    k: int,
    h: int,
    w: int,
    size: tuple[int, int],
    ignored: float = 0.2,
    ignore_index: int = 255,
    target_dtype: torch.dtype = torch.int64,
    weighted: bool = False,
    smoothing: float = 0.0,
    reduction: str = "mean",
    align_corners: bool = False,
) -> tuple[Any, ...]:
    logits = draw.image(n, k, h, w) * 3
    target = draw.integers(k, n, *size)
    if ignored:
        share = torch.rand(target.shape, generator=draw.generator, device=draw.generator.device)
        target = torch.where(share.to(draw.device) < ignored, ignore_index, target)
    class_weight = draw.uniform(k) + 0.5 if weighted else None
    return logits, target.to(target_dtype), ignore_index, class_weight, smoothing, reduction, align_corners


def _classes_of_pixels(logits: torch.Tensor, target: torch.Tensor, *_: Any) -> int:
    return logits.shape[1] * target.numel()


MODEL_SHAPES = (
    Sample("ade20k-k150-h64w64-to-512x512", _build, dict(n=1, k=150, h=64, w=64, size=(512, 512))),
    Sample("camvid-k11-h45w60-to-360x480", _build, dict(n=1, k=11, h=45, w=60, size=(360, 480))),
)
_PLAIN = dict(n=2, k=6, h=5, w=4, size=(13, 11))

SPEC = Spec(
    name=op.NAME,
    public=op.upsample_cross_entropy,
    reference=reference.upsample_cross_entropy,
    differentiable=("logits",),
    samples=samples(
        _build,
        k6_h9w7_up=dict(n=2, k=6, h=9, w=7, size=(23, 20)),
        k19_h16w13_x8=dict(n=1, k=19, h=16, w=13, size=(128, 104)),
        k21_h31w17_down=dict(n=1, k=21, h=31, w=17, size=(12, 7)),
        k5_h6w7_same=dict(n=2, k=5, h=6, w=7, size=(6, 7)),
        k6_uint8=dict(**_PLAIN, target_dtype=torch.uint8),
        k200_uint8_none_ignored=dict(
            n=1, k=200, h=3, w=4, size=(9, 10), ignored=0, ignore_index=-100, target_dtype=torch.uint8
        ),
        k6_mean_all=dict(**_PLAIN, reduction="mean_all"),
        k6_weighted=dict(**_PLAIN, weighted=True),
        k6_smoothed=dict(**_PLAIN, smoothing=0.1),
        k6_weighted_smoothed=dict(**_PLAIN, weighted=True, smoothing=0.1),
        k6_weighted_smoothed_mean_all=dict(**_PLAIN, weighted=True, smoothing=0.3, reduction="mean_all"),
        k6_ignore_class_0=dict(**_PLAIN, ignored=0, ignore_index=0),
        k6_all_ignored=dict(**_PLAIN, ignored=2),
        k300_h5w4=dict(n=1, k=300, h=5, w=4, size=(13, 11), ignored=0),
        k3_h3w2=dict(n=2, k=3, h=3, w=2, size=(7, 5)),
        k3_h3w2_weighted_smoothed=dict(n=2, k=3, h=3, w=2, size=(4, 5), weighted=True, smoothing=0.2),
        k4_h1w1_up=dict(n=2, k=4, h=1, w=1, size=(5, 3)),
        k4_h7w5_to_1x1=dict(n=2, k=4, h=7, w=5, size=(1, 1)),
        n0_k6_h4w5=dict(n=0, k=6, h=4, w=5, size=(9, 8)),
        k6_aligned=dict(**_PLAIN, align_corners=True),
        k6_weighted_smoothed_aligned=dict(**_PLAIN, weighted=True, smoothing=0.1, align_corners=True),
    ),
    model_shapes=MODEL_SHAPES,
    modelled_shapes=(MODEL_SHAPES[0].resized(n=16),),
    without_derivative=("k6-all-ignored",),  # the loss is NaN
    program_per_pixel=True,
    cuda_edges=samples(
        _build,
        k19_h16w13_to_h40w33=dict(n=1, k=19, h=16, w=13, size=(40, 33)),
        k13_h6w9_weighted_smoothed=dict(n=2, k=13, h=6, w=9, size=(17, 21), weighted=True, smoothing=0.1),
        k2_seam_of_strips=dict(n=1, k=2, h=2, w=18, size=(3, 37)),
        k35_classes_in_parts=dict(n=1, k=35, h=2, w=2, size=(3, 5), ignored=0),
        k3_rows_in_parts=dict(n=1, k=3, h=2, w=3, size=(22, 5), smoothing=0.1),
        k3_cells_wider_than_a_block=dict(n=1, k=3, h=1, w=2, size=(2, 330)),
        k4_strips_without_pixels=dict(n=1, k=4, h=20, w=37, size=(3, 5)),
    ),
    tiled=dict.fromkeys(
        (torch.channels_last, torch.contiguous_format),
        dict(n=1, k=70, h=2, w=2, size=(19, 7), weighted=True),
    ),
    elements=_classes_of_pixels,
    bad_inputs=(
        BadInput(
            "logits-axes",
            {"logits": torch.zeros(6, 9, 7)},
            ValueError,
            r"logits must be \(N, K, h, w\), got shape",
        ),
        BadInput(
            "logits-dtype",
            {"logits": torch.zeros(2, 6, 9, 7).int()},
            TypeError,
            r"logits must be float16.*, got int32",
        ),
        BadInput("target-none", {"target": None}, TypeError, r"target must be a tensor .*, got None"),
        BadInput(
            "target-batch",
            {"target": torch.zeros(3, 23, 20).long()},
            ValueError,
            r"target must be \(2, H, W\), got \(3, 23, 20\); logits are \(2, 6, 9, 7\)",
        ),
        BadInput(
            "target-empty",
            {"target": torch.zeros(2, 0, 20).long()},
            ValueError,
            r"\(H, W\) of target must be at least \(1, 1\), got \(0, 20\)",
        ),
        BadInput(
            "target-dtype",
            {"target": torch.zeros(2, 23, 20)},
            TypeError,
            r"target must be int64 or uint8, got float32",
        ),
        BadInput(
            "target-device",
            {"target": torch.zeros(2, 23, 20, device="meta").long()},
            ValueError,
            r"target must be on cpu as logits, got meta",
        ),
        BadInput(
            "class-weight-shape",
            {"class_weight": torch.ones(7)},
            ValueError,
            r"class_weight must be \(6,\), got \(7,\); logits have 6 classes",
        ),
        BadInput(
            "class-weight-complex",
            {"class_weight": torch.ones(6, dtype=torch.complex64)},
            TypeError,
            r"class_weight must be floating, got complex64; convert it",
        ),
        BadInput(
            "smoothing", {"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\], got 1.5"
        ),
        BadInput(
            "reduction",
            {"reduction": "sum"},
            ValueError,
            r"reduction must be 'mean' or 'mean_all', got 'sum'",
        ),
    ),
)
