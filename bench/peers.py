"""What our code is timed against. A new peer is one function here, under its name in PEERS.

A peer gets ``build``, the workload in plain PyTorch: ``build(memory_format)`` returns a function and its
inputs, all tensors (those in the function too: a model's weights) in that layout. The peer returns what shall
be timed; conversion, compilation and export happen before, outside the timing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

Run = Callable[[], Any]
Build = Callable[[torch.memory_format], tuple[Callable[..., Any], tuple[Any, ...]]]
Peer = Callable[[Build], Run]


def eager(build: Build) -> Run:
    """PyTorch as it comes: contiguous tensors."""
    function, inputs = build(torch.contiguous_format)
    return functools.partial(function, *inputs)


def eager_channels_last(build: Build) -> Run:
    """PyTorch with weights and inputs in channels_last, its faster layout on CPUs."""
    function, inputs = build(torch.channels_last)
    return functools.partial(function, *inputs)


PEERS: Mapping[str, Peer] = {"eager": eager, "eager channels_last": eager_channels_last}


def in_layout(tensors: Any, layout: torch.memory_format) -> Any:
    """Nested tensors, those with four axes in the layout: what every ``build`` does with its own."""
    return tree_map_only(
        torch.Tensor, lambda t: t.contiguous(memory_format=layout) if t.ndim == 4 else t, tensors
    )
