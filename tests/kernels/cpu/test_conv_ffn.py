"""Tests conv_ffn's `recompute` flag, which is no argument of the operator."""

from __future__ import annotations

import pytest
import torch

from oracle.gradients import random_grad, with_gradient
from oracle.inputs import LAYOUTS
from segnext_kernels.ops.conv_ffn.spec import SPEC
from segnext_kernels.spec import Sample
from tests.contract.cases import backward_of, strides


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("sample", SPEC.samples, ids=lambda sample: sample.name)
def test_keeping_the_hidden_tensors_changes_no_number(sample: Sample, layout: torch.memory_format) -> None:
    args, leaves = with_gradient(SPEC, sample.make(torch.float64, layout=layout))
    kept, recomputed = SPEC.public(*args, recompute=False), SPEC.public(*args)
    assert not kept.numel() or strides(kept) == strides(recomputed)
    grad = random_grad(kept)
    for by_kept, by_recomputed in zip(
        (kept, *backward_of(kept, leaves, grad)),
        (recomputed, *backward_of(recomputed, leaves, grad)),
        strict=True,
    ):
        torch.testing.assert_close(by_kept, by_recomputed, rtol=1e-11, atol=1e-11)


def _saved_bytes(args: tuple[object, ...], recompute: bool) -> int:
    saved: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        SPEC.public(*args, recompute=recompute)
    return sum(saved.values())


def test_recomputing_saves_only_the_inputs() -> None:
    args, leaves = with_gradient(SPEC, SPEC.samples[1].make())
    inputs = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    hidden = args[0].numel() // args[0].shape[1] * args[1].shape[0] * args[0].element_size()
    assert _saved_bytes(args, recompute=True) == inputs
    assert _saved_bytes(args, recompute=False) >= inputs + hidden


def test_both_ways_give_autocasts_dtype() -> None:
    args, _ = with_gradient(SPEC, next(s for s in SPEC.samples if s.name.endswith("residual")).make())
    with torch.autocast("cpu", torch.bfloat16):
        assert SPEC.public(*args).dtype == SPEC.public(*args, recompute=False).dtype == torch.bfloat16
