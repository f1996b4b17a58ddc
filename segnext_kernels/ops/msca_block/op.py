"""msca_block: the attention half of a SegNeXt block in inference, normalisation and layer scale folded in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels import checks
from segnext_kernels.kernel import Limit
from segnext_kernels.memory_format import empty_like
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.msca_block import compiled, reference
from segnext_kernels.ops.msca_conv.strips import STRIP_LISTS, TRITON_STRIPS, expect_strips, unequal_strips
from segnext_kernels.registration import define_autocast, define_op, define_vmap, forbid_gradient
from segnext_kernels.triton.launch import kernel_of

NAME = "msca_block"
ARGUMENTS = (
    "Tensor x, Tensor proj_in_weight, Tensor proj_in_bias, Tensor root_weight, Tensor? root_bias,"
    " Tensor[] row_weights, Tensor[] column_weights, Tensor[] row_biases, Tensor[] column_biases,"
    " Tensor mix_weight, Tensor mix_bias, Tensor proj_out_weight, Tensor proj_out_bias,"
    " Tensor skip_scale, Tensor skip_shift"
)


def msca_block(
    x: torch.Tensor,
    proj_in_weight: torch.Tensor,
    proj_in_bias: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    row_weights: Sequence[torch.Tensor],
    column_weights: Sequence[torch.Tensor],
    row_biases: Sequence[torch.Tensor],
    column_biases: Sequence[torch.Tensor],
    mix_weight: torch.Tensor,
    mix_bias: torch.Tensor,
    proj_out_weight: torch.Tensor,
    proj_out_bias: torch.Tensor,
    skip_scale: torch.Tensor,
    skip_shift: torch.Tensor,
) -> torch.Tensor:
    """Attention half of a SegNeXt block, for inference.

    Same as ``u = gelu(conv1x1(x)); x * skip_scale + skip_shift + conv1x1(gated_pointwise(msca_conv(u), u))``.
    With BN(x) = s x + t folded into proj_in and the layer scale l into proj_out, skip_scale is 1 + l s and
    skip_shift is l t.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        proj_in_weight, mix_weight, proj_out_weight: (C, C, 1, 1), their biases (C,).
        root_weight, root_bias, row_weights, column_weights, row_biases, column_biases: as in `msca_conv`.
        skip_scale, skip_shift: (C,).

    Returns:
        (N, C, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64). No gradient.

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs,
            or a gradient is asked for.

    Source: SegNeXt (arXiv 2209.08575), section 3.1.
    """
    given = (row_weights, column_weights, row_biases, column_biases)
    lists = [checks.expect_tensors(NAME, *named) for named in zip(STRIP_LISTS, given, strict=True)]
    weights = (proj_in_weight, proj_in_bias, root_weight, root_bias, *lists,
               mix_weight, mix_bias, proj_out_weight, proj_out_bias, skip_scale, skip_shift)  # fmt: skip
    check(NAME, x, weights)
    return _op(x, *weights)


def check(op: str, x: torch.Tensor, weights: Sequence[Any]) -> None:
    """Refuse, in the name of ``op``, weights in schema order that do not fit x or each other."""
    checks.expect_floating(op, "x", x, 4, "(N, C, H, W)")
    c = x.shape[1]
    proj_in_weight, proj_in_bias, *strips = weights[:8]
    mix_weight, mix_bias, proj_out_weight, proj_out_bias, skip_scale, skip_shift = weights[8:]
    expect_strips(op, x, *strips)
    matrices = {
        "proj_in_weight": proj_in_weight,
        "mix_weight": mix_weight,
        "proj_out_weight": proj_out_weight,
    }
    vectors = {"proj_in_bias": proj_in_bias, "mix_bias": mix_bias, "proj_out_bias": proj_out_bias}
    vectors |= {"skip_scale": skip_scale, "skip_shift": skip_shift}
    for name, tensor in (matrices | vectors).items():
        shape = (c, c, 1, 1) if name in matrices else (c,)
        checks.expect_shape(op, name, tensor, shape, f"x is {tuple(x.shape)}")
        checks.expect_like(op, name, tensor, "x", x)


TRITON_LIMITS = (
    Limit(  # the result's channels are held in registers
        lambda x, *_: x.shape[1] if x.dtype == torch.float32 else 0,
        512,
        "takes up to {most} channels in float32, not {size}",
    ),
    compiled.of_the_strips(TRITON_STRIPS),
)


def _unequal_strips(x: torch.Tensor, proj_in: Any, bias: Any, *rest: Any) -> str | None:
    return unequal_strips(x, *rest)


def _flops(
    x: Any, proj_in: Any, _b: Any, root: Any, _rb: Any, rows: Any, columns: Any, _rbs: Any, _cbs: Any,
    mix: Any, _mb: Any, proj_out: Any, *_: Any, **__: Any,
) -> int:  # fmt: skip
    return sum(convolution_flops(x, weight) for weight in (proj_in, root, *rows, *columns, mix, proj_out))


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.msca_block,
    fake=lambda x, *_: empty_like(x),
    kernels={
        "cpu": compiled.CPU,
        "triton": kernel_of(__package__, "forward", limits=TRITON_LIMITS, refuses=_unequal_strips),
    },
    flops=_flops,
)
forbid_gradient(NAME, "build the block from msca_conv and gated_pointwise for training")
define_autocast(NAME)
define_vmap(NAME)
