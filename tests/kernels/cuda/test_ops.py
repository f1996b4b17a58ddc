"""Tests every op's CUDA kernels on the emulator: samples, edges, dtypes, layouts, both directions, all schedules.

The two types of 16 bits are instances of the same templates, so after the first sample each of them has one layout. A
file per op tests what is particular to its kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from oracle.inputs import GPU_DTYPES, LAYOUTS
from segnext_kernels.backend import KERNELS
from segnext_kernels.spec import Sample, Spec, all_specs
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import assert_right, in_larger_images

ONE_LAYOUT = {torch.float16: "nchw", torch.bfloat16: "nhwc"}
SPECS = tuple(spec for spec in all_specs().values() if "cuda" in KERNELS[spec.name])


def _cases(first_only: bool = False) -> Iterator[Any]:
    for spec in SPECS:
        if first_only and not spec.has_image:
            continue
        for sample in spec.samples[:1] if first_only else (*spec.samples, *spec.cuda_edges):
            for layout in LAYOUTS if spec.has_image else ("nchw",):
                for dtype, value in GPU_DTYPES.items():
                    is_left_out = (
                        spec.has_image
                        and sample is not spec.samples[0]
                        and ONE_LAYOUT.get(value, layout) != layout
                    )
                    if value in (KERNELS[spec.name]["cuda"].dtypes or ()) and not is_left_out:
                        name = f"{spec.name}-{sample.name}-{dtype}-{layout}"
                        yield pytest.param(spec, sample, value, LAYOUTS[layout], id=name)


def over(**options: bool) -> Any:
    """Parametrise a test's op, sample, dtype and layout."""
    return pytest.mark.parametrize(("spec", "sample", "dtype", "layout"), list(_cases(**options)))


def arguments(spec: Spec, sample: Sample, dtype: torch.dtype, layout: torch.memory_format) -> tuple[Any, ...]:
    """Make the sample's arguments; skip if the kernel is not made for such sizes."""
    args = sample.make(dtype, layout=layout)
    # the emulator takes CPU tensors
    kernel = dataclasses.replace(KERNELS[spec.name]["cuda"], machine=None)
    if reason := kernel.reason_against(*args):
        pytest.skip(f"{spec.name}: cuda {reason}")
    return args


@over()
def test_forward_and_backward(
    emulator: Emulator, spec: Spec, sample: Sample, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    assert_right(emulator, spec, arguments(spec, sample, dtype, layout))


@over(first_only=True)
def test_views_into_larger_images(
    emulator: Emulator, spec: Spec, sample: Sample, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    args = in_larger_images(arguments(spec, sample, dtype, layout))
    assert_right(emulator, spec, args)
