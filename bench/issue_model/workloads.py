"""What is modelled: each op's directions on its model shapes, through its CUDA and its Triton kernels."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.issue_model import build
from segnext_kernels import backend
from segnext_kernels.specification import Sample, Spec, all_specs

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LAYOUTS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}


@dataclass(frozen=True)
class Workload:
    """One call of an op."""

    op: str
    direction: str  # "forward" or "backward"
    backend: str
    dtype: str
    layout: str
    shape: str
    elements: int
    minimum: int  # bytes: every input read once, every output written once
    make: Callable[[], tuple[Any, ...]]  # the arguments of the op, or of its backward

    @property
    def name(self) -> str:
        """Its line in the table."""
        return " ".join((self.op, self.direction, self.backend, self.dtype, self.layout, self.shape))

    @property
    def full_op(self) -> str:
        """The registered op that runs."""
        return self.op if self.direction == "forward" else f"{self.op}_backward"


def elements(spec: Spec, args: Sequence[Any]) -> int:
    """What "per element" means: outputs of the costliest part.

    conv_ffn: hidden elements; upsample_argmax: pixels; upsample_cross_entropy: classes x pixels; else those of the
    first argument.
    """
    if spec.name == "conv_ffn":
        n, _, h, w = args[0].shape
        return n * h * w * args[1].shape[0]
    if spec.name == "upsample_argmax":
        return args[0].shape[0] * args[1][0] * args[1][1]
    if spec.name == "upsample_cross_entropy":
        return args[0].shape[1] * args[1].numel()
    return args[0].numel()


def workloads(
    only: str = "",
    directions: Sequence[str] = ("forward", "backward"),
    backends: Sequence[str] = ("cuda", "triton"),
    dtypes: Sequence[str] = ("bf16",),
    layouts: Sequence[str] = ("nhwc",),
    shape: str = "",
) -> Iterator[Workload]:
    """All that matches, op by op; shapes are the specification's, T's and B's at 512x512."""
    for spec in all_specs().values():
        if only not in spec.name:
            continue
        for sample in spec.model_shapes:
            if shape not in sample.name:
                continue
            for dtype, layout, direction in itertools.product(dtypes, layouts, directions):
                yield from _of_sample(spec, sample, dtype, layout, direction, backends)


def _of_sample(
    spec: Spec, sample: Sample, dtype: str, layout: str, direction: str, backends: Sequence[str]
) -> Iterator[Workload]:
    op = spec.name if direction == "forward" else f"{spec.name}_backward"
    for name in backends:
        if name not in backend.KERNELS.get(op, {}):
            continue
        forward = sample.make(DTYPES[dtype], "meta", LAYOUTS[layout])
        minimum = spec.bytes_moved(forward, spec.op(*forward))
        make = functools.partial(_args, spec, sample, dtype, layout, "cpu" if name == "cuda" else "meta", direction)
        yield Workload(spec.name, direction, name, dtype, layout, sample.name, elements(spec, forward), minimum, make)


def _args(spec: Spec, sample: Sample, dtype: str, layout: str, device: str, direction: str) -> tuple[Any, ...]:
    args = sample.make(DTYPES[dtype], device, LAYOUTS[layout])
    if direction == "forward":
        return args
    from tests.kernels.triton_gate import _backward_args

    return _backward_args(spec, args)


def folders(op: str) -> list[str] | None:
    """csrc's folders that hold an op's CUDA kernels; None, for all, where it has none: it may call other ops."""
    return [op] if any((build.CSRC / op).glob("*.cu")) else None
