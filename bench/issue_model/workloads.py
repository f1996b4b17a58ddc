"""What is modelled: each op's directions on its model shapes, through its CUDA and its Triton kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.issue_model import build
from bench.issue_model.record import Launch, Recorder
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
    launches: Callable[[], tuple[list[Launch], Any]]  # and what must stay alive while they are modelled

    @property
    def name(self) -> str:
        """Its line in the table."""
        return " ".join((self.op, self.direction, self.backend, self.dtype, self.layout, self.shape))


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
    recorder: Callable[[str], Recorder],
    only: str = "",
    directions: Sequence[str] = ("forward", "backward"),
    backends: Sequence[str] = ("cuda", "triton"),
    dtypes: Sequence[str] = ("bf16",),
    layouts: Sequence[str] = ("nhwc",),
    shape: str = "",
    every_config: bool = False,
) -> Iterator[Workload]:
    """All that matches, op by op."""
    for spec in all_specs().values():
        if only not in spec.name:
            continue
        for sample in spec.model_shapes:
            if shape not in sample.name:
                continue
            for dtype in dtypes:
                for layout in layouts:
                    yield from _of_sample(spec, sample, dtype, layout, directions, backends, recorder, every_config)


def _of_sample(
    spec: Spec, sample: Sample, dtype: str, layout: str, directions: Sequence[str], backends: Sequence[str],
    recorder: Callable[[str], Recorder], every_config: bool,
) -> Iterator[Workload]:  # fmt: skip
    for direction in directions:
        op = spec.name if direction == "forward" else f"{spec.name}_backward"
        for name in backends:
            kernel = backend.KERNELS.get(op, {}).get(name)
            if kernel is None:
                continue
            device = "cpu" if name == "cuda" else "meta"
            forward = sample.make(DTYPES[dtype], "meta", LAYOUTS[layout])
            minimum = spec.bytes_moved(forward, spec.op(*forward))
            make = functools.partial(_args, spec, sample, dtype, layout, device, direction)
            if name == "cuda":
                launches = functools.partial(_cuda, recorder, spec.name, kernel, make)
            else:
                from bench.issue_model.triton_launches import launches_of

                launches = functools.partial(launches_of, spec.name, kernel.run, make, every_config)
            yield Workload(
                spec.name, direction, name, dtype, layout, sample.name, elements(spec, forward), minimum, launches
            )


def _cuda(
    recorder: Callable[[str], Recorder], op: str, kernel: backend.Kernel, make: Callable[[], tuple[Any, ...]]
) -> tuple[list[Launch], Any]:
    args = make()
    found, kept, _ = recorder(op).launches(kernel.run, args)
    return found, (args, kept)


def _args(spec: Spec, sample: Sample, dtype: str, layout: str, device: str, direction: str) -> tuple[Any, ...]:
    args = sample.make(DTYPES[dtype], device, LAYOUTS[layout])
    if direction == "forward":
        return args
    from tests.kernels.triton_gate import _backward_args

    return _backward_args(spec, args)


def folders(op: str) -> list[str]:
    """csrc's folders that hold an op's CUDA kernels: its own, where there is one."""
    return [op] if (build.CSRC / op).is_dir() else []


def exists(path: str) -> bool:
    """Whether csrc has such a folder."""
    return Path(build.CSRC / path).is_dir()
