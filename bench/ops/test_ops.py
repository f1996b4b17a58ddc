"""Times every op at the shapes of SegNeXt-T and -B (512x512, batch 1): forward, and forward + backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from bench.comparison import Comparison
from bench.peers import PEERS, Peer
from bench.results import OURS
from oracle.accuracy import assert_accurate, assert_gradient_accurate, assert_labels
from oracle.gradients import backward_arguments, cast, gradients_of, random_grad
from oracle.inputs import in_layout
from segnext_kernels import choose
from segnext_kernels.spec import Sample, Spec, all_specs

Args = tuple[Any, ...]
SPECS = tuple(all_specs().values())


def over(specs: Sequence[Spec]) -> Callable[[Any], Any]:
    """Parametrise a test's spec and sample: each op at all of the model's shapes."""
    pairs = [(spec, sample) for spec in specs for sample in spec.model_shapes]
    return pytest.mark.parametrize(
        ("spec", "sample"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1].name}") for pair in pairs]
    )


def peers_for(args: Args) -> Mapping[str, Peer]:
    """Return all peers, or only those of one layout if no argument has four axes (nmf2d's matrices)."""
    if any(t.ndim == 4 for t in tree_leaves(args) if isinstance(t, torch.Tensor)):
        return PEERS
    return {name: peer for name, peer in PEERS.items() if "channels_last" not in name}


@over(SPECS)
def test_forward(spec: Spec, sample: Sample, compare: Comparison) -> None:
    args = in_layout(sample.make(), torch.channels_last)
    with torch.inference_mode():
        oracle, eager = spec.reference(*cast(args, torch.float64)), spec.reference(*args)

    def check(variant: str, output: torch.Tensor) -> None:
        if eager.is_floating_point():
            # a peer is its own measure of rounding, so only the absolute cap remains
            assert_accurate(output, oracle, eager if variant == OURS else output, what=variant)
        else:
            assert_labels(output, args[0], (output.shape[1], output.shape[2]))

    compare(
        "ops, forward",
        f"{spec.name} {sample.name}",
        lambda: spec.call(*args),
        lambda layout: (spec.reference, in_layout(args, layout)),
        check,
        peers=peers_for(args),
        flops=spec.flops(args),
        bytes_moved=spec.bytes_moved(args, eager),
        backend=choose(spec.name, *args),
    )


@over([spec for spec in SPECS if spec.differentiable])
def test_forward_backward(spec: Spec, sample: Sample, compare: Comparison) -> None:
    """Time both together, since an op that saves less in the forward recomputes in the backward."""
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

    compare(
        "ops, forward + backward",
        f"{spec.name} {sample.name}",
        lambda: gradients_of(spec.call, spec, args, grad),
        lambda layout: (gradients_of, (spec.reference, spec, *in_layout((args, grad), layout))),
        check,
        peers=peers_for(args),
        inference=False,
        # the backward has two products for each one of the forward; as usual, recomputed ones are not counted
        flops=3 * spec.flops(args),
        bytes_moved=spec.bytes_moved(args, out) + spec.bytes_moved((args, grad), eagers),
        backend=" + ".join(dict.fromkeys([choose(spec.name, *args), choose(*backward)])),
    )
