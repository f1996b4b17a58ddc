"""msca_block: how its CPU kernel is called, on weights packed for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from segnext_kernels import memory_format, native
from segnext_kernels.kernel import Limit
from segnext_kernels.ops.msca_conv.compiled import CPU_LIMITS
from segnext_kernels.ops.pointwise.compiled import to_channels_last as pointwise

# PyTorch divides longer tensors between its threads, and its GELU differs in the last bit where a thread's part ends.
UNDIVIDED = 1 << 14


def pack(weights: Sequence[Any]) -> native.Packed:
    """The CPU kernel's form of the op's arguments after x, in schema order."""
    return native.pack(
        "msca_block", weights[0].dtype, [list(w) if isinstance(w, tuple) else w for w in weights]
    )


def workspace_elements(x: torch.Size) -> int:
    """Elements of x's dtype that the CPU kernel needs beside x and out."""
    return x[0] * native._C.msca_block_workspace(x[1], x[2], x[3], native.instruction_set())


def run(x: torch.Tensor, packed: native.Packed, workspace: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write into ``out``, which has x's shape and dtype and must not overlap x."""
    native.call_cpu(
        "msca_block", x, x.dtype, x, packed.address, native.address(workspace), out, isa=packed.isa
    )
    return out


def _forward(x: torch.Tensor, *weights: Any) -> torch.Tensor:
    if x.dtype == torch.float64:
        return _in_steps(x, *weights)
    return run(x, pack(weights), x.new_empty(workspace_elements(x.shape)), memory_format.empty_like(x))


def _in_steps(
    x: torch.Tensor, proj_in_weight: torch.Tensor, proj_in_bias: torch.Tensor, *rest: Any
) -> torch.Tensor:
    """By the kernels of the parts, which have float64; the fused one does not."""
    *convolution, mix_weight, mix_bias, proj_out_weight, proj_out_bias, skip_scale, skip_shift = rest
    u = pointwise(x, proj_in_weight, proj_in_bias)
    for part in u.movedim(1, -1).view(-1).split(UNDIVIDED):
        part.copy_(F.gelu(part))
    m = torch.ops.segnext_kernels.msca_conv(u, *convolution)
    gated = torch.ops.segnext_kernels.gated_pointwise(m, u, mix_weight, mix_bias)
    skip = x * skip_scale.view(1, -1, 1, 1) + skip_shift.view(1, -1, 1, 1)
    return memory_format.as_format_of(skip + pointwise(gated, proj_out_weight, proj_out_bias), x)


def of_the_strips(limit: Limit) -> Limit:
    """A limit of msca_conv, which gets this op's arguments without those of proj_in."""
    return Limit(lambda x, weight, bias, *rest: limit.size(x, *rest), limit.most, limit.text)


CPU = native.cpu(_forward, limits=tuple(map(of_the_strips, CPU_LIMITS)))
