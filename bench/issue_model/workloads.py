"""Lists what is modelled: each op's directions on its model shapes, through its CUDA and its Triton kernels."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from bench.issue_model import build
from oracle.gradients import backward_arguments
from oracle.inputs import DTYPES, LAYOUTS
from segnext_kernels import backend
from segnext_kernels.spec import Sample, Spec, all_specs

LARGE = (
    1 << 25
)  # elements of a call's arguments; in larger ones numbers repeat instead of being drawn one by one


@dataclass(frozen=True)
class Workload:
    """Describes one call of an op."""

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
        """Name the workload's line in the table."""
        return " ".join((self.op, self.direction, self.backend, self.dtype, self.layout, self.shape))

    @property
    def full_op(self) -> str:
        """Name the registered op that runs."""
        return self.op if self.direction == "forward" else f"{self.op}_backward"


def workloads(
    only: str = "",
    directions: Sequence[str] = ("forward", "backward"),
    backends: Sequence[str] = ("cuda", "triton"),
    dtypes: Sequence[str] = ("bf16",),
    layouts: Sequence[str] = ("nhwc",),
    shape: str = "",
    changed: dict[str, Any] | None = None,
    targets: bool = False,
) -> Iterator[Workload]:
    """Yield all calls that match, op by op; shapes are the specification's, T's and B's at 512x512.

    Args:
        changed: sizes to take instead of the samples' own.
        targets: yield the larger shapes too that the specification names for the model.
    """
    for spec in all_specs().values():
        if only not in spec.name:
            continue
        samples = [sample.resized(**changed) if changed else sample for sample in spec.model_shapes]
        for sample in (*samples, *(spec.modelled_shapes if targets else ())):
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
        count = sum(t.numel() for t in tree_leaves(forward) if isinstance(t, torch.Tensor))
        device = "cpu" if name == "cuda" and count <= LARGE else "meta"
        make = functools.partial(_args, spec, sample, dtype, layout, device, direction)
        yield Workload(
            spec.name, direction, name, dtype, layout, sample.name, spec.elements(*forward), minimum, make
        )


def _args(
    spec: Spec, sample: Sample, dtype: str, layout: str, device: str, direction: str
) -> tuple[Any, ...]:
    args = sample.make(DTYPES[dtype], device, LAYOUTS[layout])
    if direction == "forward":
        return args
    return backward_arguments(spec, args, torch.Tensor.detach)


def folders(op: str) -> list[str] | None:
    """Return csrc's folders with the CUDA kernels of an op and of the ops that it calls; without any, None for all."""
    names = (op, *all_specs()[op].calls)
    return [name for name in names if any((build.CSRC / "ops" / name).glob("*.cu"))] or None
