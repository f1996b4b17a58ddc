"""Tests every launch configuration of the Triton kernels, with more channels than a program takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.accuracy import assert_labels
from oracle.gradients import random_grad, with_gradient
from oracle.inputs import LAYOUTS
from segnext_kernels import backend
from segnext_kernels.spec import Sample, all_specs
from segnext_kernels.triton import tuning
from tests.contract.cases import backward_of
from tests.kernels import against_definition

SPECS = {name: spec for name, spec in all_specs().items() if spec.tiled}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("name", SPECS)
def test_configuration(
    name: str, index: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS[name]
    used = set()

    def take(space: tuning.Space, key: str, x: torch.Tensor, run: Any) -> Any:
        used.add(index < len(space.configs))
        return run(space.configs[min(index, len(space.configs) - 1)])

    monkeypatch.setattr(tuning, "tuned", take)
    args = Sample(name, spec.samples[0].build, spec.tiled[layout]).make(layout=layout)
    if not spec.differentiable:
        with backend.use_backend("triton"):
            assert_labels(spec.public(*args), *args)
    else:
        against_definition.assert_right(spec, args, "triton")
    if True not in used:
        pytest.skip("no kernel of this op has as many configurations")


def test_gradient_reaches_every_argument() -> None:
    spec = SPECS["msca_conv"]
    args = Sample("", spec.samples[0].build, {**spec.tiled[torch.contiguous_format], "c": 3}).make()
    args, leaves = with_gradient(spec, args)
    with backend.use_backend("triton"):
        out = spec.public(*args)
        assert all(grad.abs().sum() > 0 for grad in backward_of(out, leaves, random_grad(out)))
