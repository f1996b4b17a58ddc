"""Tests conv_ffn's `recompute` flag, which is no argument of the operator, and the order of its long sums."""

from __future__ import annotations

import pytest
import torch

from oracle.gradients import random_grad, with_gradient
from oracle.inputs import LAYOUTS
from segnext_kernels import native
from segnext_kernels.ops.conv_ffn.spec import SPEC
from segnext_kernels.spec import Sample, all_specs
from tests.contract.cases import assert_bitwise, backward_of, strides


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


@pytest.mark.skipif(native._C is None, reason="the compiled library is missing")
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["fp64", "fp32", "bf16"]
)
@pytest.mark.parametrize("op", ["conv_ffn", "msca_block"])
@pytest.mark.usefixtures("threads")
def test_long_sums_do_not_depend_on_the_number_of_threads(op: str, dtype: torch.dtype) -> None:
    """A library of matrix products divides a sum over a thousand pixels or some hundred channels between threads."""
    spec = all_specs()[op]
    for sizes in (dict(c=20, e=36, co=20, h=33, w=33), dict(c=263, e=70, co=11, h=3, w=5)):
        kept = {name: size for name, size in sizes.items() if op == "conv_ffn" or name in ("c", "h", "w")}
        results = []
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            args, leaves = with_gradient(spec, spec.samples[0].make(dtype, n=2, **kept))
            out = spec.call(*args)
            results.append([out, *(backward_of(out, leaves, random_grad(out)) if leaves else [])])
        for result in results[1:]:
            assert_bitwise(result, results[0])
