"""Times every op at the shapes of SegNeXt-T and -B (512x512, batch 1): forward, and forward + backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from bench.comparison import Comparison
from bench.op_workloads import OpWorkload, forward, forward_backward
from bench.peers import PEERS, Peer
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
    _compare(compare, "ops, forward", f"{spec.name} {sample.name}", forward(spec, sample))


@over([spec for spec in SPECS if spec.differentiable])
def test_forward_backward(spec: Spec, sample: Sample, compare: Comparison) -> None:
    workload = forward_backward(spec, sample)
    _compare(compare, "ops, forward + backward", f"{spec.name} {sample.name}", workload, inference=False)


def _compare(compare: Comparison, table: str, name: str, of: OpWorkload, inference: bool = True) -> None:
    compare(
        table,
        name,
        of.ours,
        of.build,
        of.check,
        peers=peers_for(of.args),
        inference=inference,
        flops=of.flops,
        bytes_moved=of.bytes_moved,
        backend=of.backend,
    )
