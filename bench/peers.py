"""Holds the peers that our code is timed against. A new peer is one function here, under its name in PEERS.

A peer gets ``build``, the workload in plain PyTorch: ``build(memory_format)`` returns a function and its inputs, with
all tensors (a model's weights in the function too) in that layout. The peer returns the function to be timed;
conversion, compilation and export happen before, outside the timing. Single ops are compared with PEERS, models also
with the runtimes of `segnext.measure.runtimes`; a runtime that is missing raises its `Unavailable`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from segnext.measure import runtimes

Run = Callable[[], Any]
Build = Callable[[torch.memory_format], tuple[Callable[..., Any], tuple[Any, ...]]]
Peer = Callable[[Build], Run]


def eager(build: Build) -> Run:
    """Run PyTorch as it comes, on contiguous tensors."""
    function, inputs = build(torch.contiguous_format)
    return functools.partial(function, *inputs)


def eager_channels_last(build: Build) -> Run:
    """Run PyTorch with weights and inputs in channels_last, its faster layout on CPUs."""
    function, inputs = build(torch.channels_last)
    return functools.partial(function, *inputs)


PEERS: Mapping[str, Peer] = {"eager": eager, "eager channels_last": eager_channels_last}


def torch_compile(build: Build) -> Run:
    """Run torch.compile in channels_last; it generates its own loops and needs no second formulation."""
    function, inputs = build(torch.channels_last)
    return runtimes.torch_compile(function, *inputs)


def float32_peers(*formulations: Build) -> Mapping[str, Peer]:
    """Return the peers of a model in float32.

    Args:
        formulations: other ways to write the workload. Runtimes that take a graph as it is written get the formulation
            that is fastest there.
    """
    graphs = Graphs(formulations)
    return {
        **PEERS,
        "torch.compile": torch_compile,
        "ONNX Runtime": lambda build: graphs.fastest(runtimes.onnx_runtime, build),
        "OpenVINO": lambda build: graphs.fastest(runtimes.openvino, build),
    }


def bfloat16_peers(*formulations: Build) -> Mapping[str, Peer]:
    """Return the peers of a model in bfloat16, for a ``build`` in bfloat16.

    Args:
        formulations: the workload in float32, at least one: OpenVINO lowers the precision itself.
    """
    first, *others = formulations
    graphs = Graphs(others)
    openvino = functools.partial(runtimes.openvino, dtype=torch.bfloat16)
    return {
        "eager channels_last": eager_channels_last,
        "torch.compile": torch_compile,
        "OpenVINO": lambda build: graphs.fastest(openvino, first),
    }


class Graphs:
    """Exports each formulation of one workload to ONNX, once for all runtimes."""

    def __init__(self, formulations: Sequence[Build]) -> None:
        self.formulations = formulations
        self._exported: dict[Build, tuple[bytes, tuple[Any, ...]]] = {}

    def fastest(self, runtime: Callable[..., Run], build: Build) -> Run:
        """Run ``runtime`` on the formulation that it runs fastest."""
        runs = [runtime(model, *inputs) for model, inputs in map(self._export, (build, *self.formulations))]
        return runtimes.fastest(runs)

    def _export(self, build: Build) -> tuple[bytes, tuple[Any, ...]]:
        if build not in self._exported:
            function, inputs = build(torch.contiguous_format)
            self._exported[build] = runtimes.export_onnx(function, *inputs), inputs
        return self._exported[build]
