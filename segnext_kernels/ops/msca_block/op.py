"""msca_block: the attention half of a SegNeXt block in inference, normalisation and layer scale folded in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels import checks, memory_format, native
from segnext_kernels.backend import Kernel
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.msca_block import reference
from segnext_kernels.registration import define_autocast, define_op, define_vmap, forbid_gradient
from segnext_kernels.triton import launch

NAME = "msca_block"
TRITON_WIDEST = 512  # in float32
TRITON_STRIPS = 3


def _fake(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return memory_format.empty_like(x)


def _flops(x: Any, proj_in: Any, _b: Any, root: Any, _rb: Any, strips: Any, _sb: Any, mix: Any, _mb: Any, proj_out: Any,
           *_: Any, **__: Any) -> int:  # fmt: skip
    return sum(convolution_flops(x, weight) for weight in (proj_in, root, *strips, mix, proj_out))


def _views(weights: Sequence[Any]) -> list[Any]:
    return [
        [native.view(t) for t in weight] if isinstance(weight, (list, tuple)) else native.view(weight)
        for weight in weights
    ]


def pack(weights: Sequence[Any]) -> torch.Tensor:
    """The CPU kernel's form of the op's arguments after x, in schema order."""
    dtype, isa = native.DTYPES[weights[0].dtype], native.instruction_set()
    views = _views(weights)
    packed = native.packed_memory(native._C.msca_block_packed_bytes(dtype, views, isa))
    native._C.msca_block_pack_cpu(dtype, views, packed.data_ptr(), isa)
    return packed


def workspace_elements(x: torch.Size) -> int:
    """Elements of x's dtype that the CPU kernel needs beside x and out."""
    return x[0] * native._C.msca_block_workspace(x[1], x[2], x[3], native.instruction_set())


def run_packed(x: torch.Tensor, packed: torch.Tensor, workspace: torch.Tensor, out: torch.Tensor) -> None:
    """The CPU kernel on packed weights; ``out`` has x's shape and dtype and must not overlap x."""
    native._C.msca_block_cpu(
        native.DTYPES[x.dtype], native.view(x), packed.data_ptr(), workspace.data_ptr(), native.view(out),
        native.instruction_set(), torch.get_num_threads(),
    )  # fmt: skip


def _cpu(x: torch.Tensor, *weights: Any) -> torch.Tensor:
    out = memory_format.empty_like(x)
    run_packed(x, pack(weights), x.new_empty(workspace_elements(x.shape)), out)
    return out


def _cpu_refuses(
    x: torch.Tensor, proj_in: Any, proj_in_bias: Any, root: Any, root_bias: Any, strips: Any, *_: Any
) -> str | None:
    return native.cpu_refuses(x, (torch.float32, torch.bfloat16)) or native.strips_refused(root, strips)


def _triton_refuses(
    x: torch.Tensor, proj_in: Any, proj_in_bias: Any, root: Any, root_bias: Any, strips: Any, *_: Any
) -> str | None:
    if x.dtype == torch.float32 and x.shape[1] > TRITON_WIDEST:  # the result's channels are held in registers
        return f"takes up to {TRITON_WIDEST} channels in float32, not {x.shape[1]}"
    if len(strips) > 2 * TRITON_STRIPS:
        return f"takes up to {TRITON_STRIPS} strips, not {len(strips) // 2}"
    return None


_op = define_op(
    NAME,
    "(Tensor x, Tensor proj_in_weight, Tensor proj_in_bias, Tensor root_weight, Tensor? root_bias,"
    " Tensor[] strip_weights, Tensor[] strip_biases, Tensor mix_weight, Tensor mix_bias,"
    " Tensor proj_out_weight, Tensor proj_out_bias, Tensor skip_scale, Tensor skip_shift) -> Tensor",
    reference=reference.msca_block,
    fake=_fake,
    kernels={
        "cpu": Kernel(_cpu, _cpu_refuses),
        "triton": launch.kernel(__package__, "forward", refuses_more=_triton_refuses),
    },
    flops=_flops,
)
forbid_gradient(NAME, "build the block from msca_conv and gated_pointwise for training")
define_autocast(NAME, lambda low, *args: tuple(low(a) for a in args))
define_vmap(NAME)


def msca_block(
    x: torch.Tensor,
    proj_in_weight: torch.Tensor,
    proj_in_bias: torch.Tensor,
    root_weight: torch.Tensor,
    root_bias: torch.Tensor | None,
    strip_weights: Sequence[torch.Tensor],
    strip_biases: Sequence[torch.Tensor],
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
        root_weight, root_bias, strip_weights, strip_biases: as in `msca_conv`.
        skip_scale, skip_shift: (C,).

    Returns:
        (N, C, H, W) in x's dtype and memory format; accumulated in float32 (float64 for float64). No gradient.

    Raises:
        ValueError: shapes disagree. TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs,
            or a gradient is asked for.

    Source: SegNeXt (arXiv 2209.08575), section 3.1.
    """
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    c = x.shape[1]
    checks.expect_strips(NAME, x, root_weight, root_bias, strip_weights, strip_biases)
    matrices = {
        "proj_in_weight": proj_in_weight,
        "mix_weight": mix_weight,
        "proj_out_weight": proj_out_weight,
    }
    vectors = {"proj_in_bias": proj_in_bias, "mix_bias": mix_bias, "proj_out_bias": proj_out_bias}
    vectors |= {"skip_scale": skip_scale, "skip_shift": skip_shift}
    for name, tensor in (matrices | vectors).items():
        checks.expect_shape(
            NAME, name, tensor, (c, c, 1, 1) if name in matrices else (c,), f"x is {tuple(x.shape)}"
        )
        checks.expect_like(NAME, name, tensor, "x", x)
    return _op(x, proj_in_weight, proj_in_bias, root_weight, root_bias, list(strip_weights), list(strip_biases),
               mix_weight, mix_bias, proj_out_weight, proj_out_bias, skip_scale, skip_shift)  # fmt: skip
