"""msca_block: how its CPU kernel is called, on weights packed for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segnext_kernels import memory_format, native
from segnext_kernels.kernel import Limit
from segnext_kernels.ops.msca_conv.compiled import CPU_LIMITS


def pack(weights: Sequence[Any]) -> torch.Tensor:
    """The CPU kernel's form of the op's arguments after x, in schema order."""
    return native.pack(
        "msca_block", weights[0].dtype, [list(w) if isinstance(w, tuple) else w for w in weights]
    )


def workspace_elements(x: torch.Size) -> int:
    """Elements of x's dtype that the CPU kernel needs beside x and out."""
    return x[0] * native._C.msca_block_workspace(x[1], x[2], x[3], native.instruction_set())


def run(x: torch.Tensor, packed: torch.Tensor, workspace: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write into ``out``, which has x's shape and dtype and must not overlap x."""
    native.call_cpu("msca_block", x, x.dtype, x, packed.data_ptr(), workspace.data_ptr(), out)
    return out


def _forward(x: torch.Tensor, *weights: Any) -> torch.Tensor:
    return run(x, pack(weights), x.new_empty(workspace_elements(x.shape)), memory_format.empty_like(x))


def of_the_strips(limit: Limit) -> Limit:
    """A limit of msca_conv, which gets this op's arguments without those of proj_in."""
    return Limit(lambda x, weight, bias, *rest: limit.size(x, *rest), limit.most, limit.text)


CPU = native.cpu(_forward, native.INFERENCE_DTYPES, limits=tuple(map(of_the_strips, CPU_LIMITS)))
