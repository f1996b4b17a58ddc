"""Every launch configuration of every Triton kernel, and more channels than a program takes, give the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.accuracy import assert_labels
from oracle.gradients import random_grad, with_gradient
from oracle.inputs import LAYOUTS
from segnext_kernels import backend
from segnext_kernels.ops.dwconv_gelu.spec import SPEC as DWCONV_GELU
from segnext_kernels.ops.group_norm_act.spec import SPEC as GROUP_NORM_ACT
from segnext_kernels.ops.msca_conv.spec import SPEC as MSCA_CONV
from segnext_kernels.ops.upsample_argmax.spec import SPEC as UPSAMPLE_ARGMAX
from segnext_kernels.ops.upsample_cross_entropy.spec import SPEC as UPSAMPLE_CROSS_ENTROPY
from segnext_kernels.spec import Sample, Spec
from segnext_kernels.triton import tuning
from tests.contract.cases import backward_of
from tests.kernels import against_definition

# Small, but of several tiles along every axis in most configurations; contiguous tiles hold fewer channels.
FEWER = {"dwconv_gelu": 12, "group_norm_act": 12, "msca_conv": 10}
SIZES: dict[str, tuple[Spec, dict[str, Any]]] = {
    "dwconv_gelu": (DWCONV_GELU, dict(n=1, c=72, h=9, w=9)),
    "group_norm_act": (GROUP_NORM_ACT, dict(n=1, c=72, groups=6, h=7, w=9, residual=True)),
    "msca_conv": (MSCA_CONV, dict(n=1, c=66, h=3, w=9, root=3, strips=(3, 5))),
    "upsample_argmax": (UPSAMPLE_ARGMAX, dict(n=1, k=70, h=2, w=3, size=(19, 30))),
    "upsample_cross_entropy": (
        UPSAMPLE_CROSS_ENTROPY,
        dict(n=1, k=70, h=2, w=2, size=(19, 7), weighted=True),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("name", SIZES)
def test_configuration(
    name: str, index: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, sizes = SIZES[name]
    used = set()

    def take(space: tuning.Space, key: str, x: torch.Tensor, run: Any) -> Any:
        used.add(index < len(space.configs))
        return run(space.configs[min(index, len(space.configs) - 1)])

    monkeypatch.setattr(tuning, "tuned", take)
    if layout == torch.contiguous_format and name in FEWER:
        sizes = {**sizes, "c": FEWER[name]}
    args = Sample(name, spec.samples[0].build, sizes).make(layout=layout)
    if not spec.differentiable:
        with backend.use_backend("triton"):
            assert_labels(spec.public(*args), *args)
    else:
        against_definition.assert_right(spec, args, "triton")
    if True not in used:
        pytest.skip("no kernel of this op has as many configurations")


def test_gradient_reaches_every_argument() -> None:
    spec, sizes = SIZES["msca_conv"]
    args = Sample("", spec.samples[0].build, {**sizes, "c": 3}).make()
    args, leaves = with_gradient(spec, args)
    with backend.use_backend("triton"):
        out = spec.public(*args)
        assert all(grad.abs().sum() > 0 for grad in backward_of(out, leaves, random_grad(out)))
