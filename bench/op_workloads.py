"""Makes of an op and a sample what is timed: ours, the definition in PyTorch, and the check of a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.peers import Build, Run
from bench.results import OURS
from oracle.accuracy import assert_accurate, assert_gradient_accurate, assert_labels
from oracle.gradients import backward_arguments, cast, gradients_of, random_grad
from oracle.inputs import in_layout
from segnext_kernels import choose
from segnext_kernels.spec import Sample, Spec


@dataclass(frozen=True)
class OpWorkload:
    """One op at one shape, forward or with its gradients.

    Attributes:
        args: the op's, in channels_last.
        ours: the call.
        build: the same in plain PyTorch, for `bench.peers`.
        check: gets a variant's name and result, and raises AssertionError if the result is wrong.
        flops: of convolutions and matrix products.
        bytes_moved: every input is read once, every output written once.
        backend: what `auto` chose.
    """

    args: tuple[Any, ...]
    ours: Run
    build: Build
    check: Callable[[str, Any], None]
    flops: int
    bytes_moved: int
    backend: str


def forward(spec: Spec, sample: Sample) -> OpWorkload:
    """Return an op's forward pass, without gradients."""
    args = in_layout(sample.make(), torch.channels_last)
    with torch.inference_mode():
        oracle, eager = spec.reference(*cast(args, torch.float64)), spec.reference(*args)

    def check(variant: str, output: torch.Tensor) -> None:
        if eager.is_floating_point():
            # a peer is its own measure of rounding, so only the absolute cap remains
            assert_accurate(output, oracle, eager if variant == OURS else output, what=variant)
        else:
            assert_labels(output, args[0], (output.shape[1], output.shape[2]))

    return OpWorkload(
        args,
        lambda: spec.call(*args),
        lambda layout: (spec.reference, in_layout(args, layout)),
        check,
        spec.flops(args),
        spec.bytes_moved(args, eager),
        choose(spec.name, *args),
    )


def forward_backward(spec: Spec, sample: Sample) -> OpWorkload:
    """Return both passes together, since an op that saves less in the forward recomputes in the backward."""
    args = in_layout(sample.make(**spec.saving), torch.channels_last)
    out = spec.reference(*args)
    grad = in_layout(random_grad(out), torch.channels_last)
    backward = f"{spec.name}_backward", *backward_arguments(spec, args, lambda _: grad)
    oracles = gradients_of(spec.reference, spec, cast(args, torch.float64), grad)
    eagers = gradients_of(spec.reference, spec, args, grad)

    def check(variant: str, output: list[torch.Tensor]) -> None:
        for index, (actual, oracle, eager) in enumerate(zip(output, oracles, eagers, strict=True)):
            by = eager if variant == OURS else actual
            assert_gradient_accurate(actual, oracle, by, what=f"{variant}, gradient {index}")

    return OpWorkload(
        args,
        lambda: gradients_of(spec.call, spec, args, grad),
        lambda layout: (gradients_of, (spec.reference, spec, *in_layout((args, grad), layout))),
        check,
        # the backward has two products for each one of the forward; as usual, recomputed ones are not counted
        3 * spec.flops(args),
        spec.bytes_moved(args, out) + spec.bytes_moved((args, grad), eagers),
        " + ".join(dict.fromkeys([choose(spec.name, *args), choose(*backward)])),
    )
