"""Names the dtypes and memory formats that tests and benchmarks use, as their ids show them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map_only

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
GPU_DTYPES = {name: dtype for name, dtype in DTYPES.items() if name != "fp64"}  # our GPU kernels take these
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def in_layout(tensors: Any, layout: torch.memory_format) -> Any:
    """Put the tensors with four axes of a nested structure into the memory format."""
    return tree_map_only(
        torch.Tensor, lambda t: t.contiguous(memory_format=layout) if t.ndim == 4 else t, tensors
    )
