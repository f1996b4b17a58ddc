"""nmf2d: sample inputs and promises."""

from __future__ import annotations

from typing import Any

import torch

from segnext_kernels.memory_format import accumulator_dtype
from segnext_kernels.ops.nmf2d import op, reference
from segnext_kernels.spec import BadInput, Draw, Spec, samples


def _build(
    draw: Draw,
    b: int,
    d: int,
    n: int,
    r: int,
    steps: int,
    grad: str = "unrolled",
    shared: bool = True,
    wide_bases: bool = True,
    scale: float = 1.0,
    save: bool = True,
    positive: bool = False,
    inner_rows: bool = False,
) -> tuple[Any, ...]:
    bases = draw.uniform(1 if shared else b, d, r)
    if wide_bases:
        bases = bases.to(accumulator_dtype(draw.dtype))
    bases = bases / bases.norm(dim=1, keepdim=True)
    # features as after a ReLU, of which a third are zero; if positive, none are
    x = draw.uniform(b, d, n) + 0.1 if positive else torch.relu(draw.uniform(b, d, n) * 1.5 - 0.5)
    x = x * scale
    if inner_rows:  # like the pixels of a channels_last image
        x = x.mT.contiguous().mT
    return x, bases, steps, grad, 1e-6, save


def _definition(
    x: torch.Tensor, bases: torch.Tensor, steps: int, grad: str, eps: float, save: bool
) -> torch.Tensor:
    """The reference in a form for autograd: in one_step, everything before the last update is a constant."""
    if grad == "unrolled":
        return reference.nmf2d(x, bases, steps, grad, eps, save)[0]
    with torch.no_grad():
        _, loop_bases, loop_coef = reference.nmf2d(x, bases, steps, grad, eps, True)
    wide, last_bases, coef = x.to(accumulator_dtype(x.dtype)), loop_bases[-1], loop_coef[-1]
    coef = coef * (wide.mT @ last_bases) / (coef @ (last_bases.mT @ last_bases) + eps)
    return (last_bases @ coef.mT).to(x.dtype)


MODEL_SHAPES = samples(
    _build,
    t_d256_n4096_r16=dict(b=1, d=256, n=4096, r=16, steps=7, save=False, inner_rows=True),
    b_d512_n4096_r64=dict(b=1, d=512, n=4096, r=64, steps=7, save=False, inner_rows=True),
)
OF_T, OF_B = MODEL_SHAPES

SPEC = Spec(
    name=op.NAME,
    public=op.nmf2d,
    reference=_definition,
    differentiable=("x",),
    samples=samples(
        _build,
        d8_n35_r4_6steps=dict(b=2, d=8, n=35, r=4, steps=6),
        d64_n527_r16_7steps=dict(b=1, d=64, n=527, r=16, steps=7),
        d64_n300_r20_inner_rows=dict(b=2, d=64, n=300, r=20, steps=6, inner_rows=True),
        d20_n63_r5_own_bases=dict(b=3, d=20, n=63, r=5, steps=3, shared=False),
        d20_n63_r5_one_step=dict(b=2, d=20, n=63, r=5, steps=6, grad="one_step"),
        d12_n30_r4_bases_as_x=dict(b=2, d=12, n=30, r=4, steps=2, wide_bases=False),
        d12_n700_r4_large=dict(b=1, d=12, n=700, r=4, steps=6, scale=30.0),
        d3_n4_r2_2steps=dict(b=2, d=3, n=4, r=2, steps=2),
        d3_n4_r2_one_step=dict(b=2, d=3, n=4, r=2, steps=2, grad="one_step"),
        d4_n1_r1_0steps=dict(b=2, d=4, n=1, r=1, steps=0),
        d1_n5_r8_rank_above_d=dict(b=1, d=1, n=5, r=8, steps=2, positive=True),
        b0_d8_n6_r4=dict(b=0, d=8, n=6, r=4, steps=2),
        d8_n35_r4_inference=dict(b=2, d=8, n=35, r=4, steps=7, save=False),
    ),
    model_shapes=MODEL_SHAPES,
    modelled_shapes=(
        OF_T.resized(b=32),
        OF_T.resized(n=18432),  # 768x1536
        OF_T.resized(n=32768),  # 1024x2048
        OF_B.resized(n=32768),
    ),
    target_shapes=samples(
        _build,
        t_d256_n32768_r16=dict(b=1, d=256, n=32768, r=16, steps=7, save=False, inner_rows=True),
        b_d512_n4096_r64_b32=dict(b=32, d=512, n=4096, r=64, steps=7, save=False, inner_rows=True),
    ),
    bad_inputs=(
        BadInput(
            "x-axes",
            {"x": torch.zeros(2, 8, 5, 7)},
            ValueError,
            r"x must be \(B, D, N\), got shape \(2, 8, 5, 7\)",
        ),
        BadInput("x-dtype", {"x": torch.zeros(2, 8, 35).int()}, TypeError, r"x must be float16.*, got int32"),
        BadInput("bases-none", {"bases": None}, TypeError, r"bases must be a tensor .*, got NoneType"),
        BadInput(
            "bases-rows",
            {"bases": torch.zeros(1, 9, 4)},
            ValueError,
            r"bases must be \(1, 8, R\), got \(1, 9, 4\); x is \(2, 8, 35\)",
        ),
        BadInput(
            "bases-batch",
            {"bases": torch.zeros(3, 8, 4)},
            ValueError,
            r"bases must be \(2, 8, R\), got \(3, 8, 4\)",
        ),
        BadInput(
            "bases-dtype",
            {"bases": torch.zeros(1, 8, 4).half()},
            TypeError,
            r"bases must be float32 as x, got float16",
        ),
        BadInput(
            "bases-device",
            {"bases": torch.zeros(1, 8, 4, device="meta")},
            ValueError,
            r"bases must be on cpu as x, got meta",
        ),
        BadInput("steps", {"steps": -1}, ValueError, r"steps must be at least 0, got -1"),
        BadInput("steps-float", {"steps": 2.0}, TypeError, r"steps must be an integer, at least 0, got 2\.0"),
        BadInput(
            "grad",
            {"grad": "two_steps"},
            ValueError,
            r"grad must be 'unrolled' or 'one_step', got 'two_steps'",
        ),
    ),
    resized={"n": 48},
    internal=("save",),
    saving={"save": True},
    without_derivative=("d20-n63-r5-one-step", "d3-n4-r2-one-step"),
    matrix_products=True,
)
