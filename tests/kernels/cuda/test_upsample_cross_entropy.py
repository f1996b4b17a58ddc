"""upsample_cross_entropy's CUDA kernels on the emulator: every option, strip and kind of resize."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.accuracy import assert_accurate, assert_gradient_accurate
from oracle.gradients import cast
from oracle.inputs import LAYOUTS
from segnext_kernels.ops.upsample_cross_entropy import compiled, reference
from segnext_kernels.ops.upsample_cross_entropy.spec import SPEC
from tests.cuda_emulator.emulation import Emulator
from tests.kernels.cuda.emulated import poisoned_view

GRAD = torch.tensor(0.7)
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def assert_right(emulator: Emulator, args: tuple[Any, ...]) -> None:
    loss = emulator.run(compiled.FORWARD["cuda"].run, *args)
    wide = cast(args, torch.float64)
    assert_accurate(loss, reference.upsample_cross_entropy(*wide), reference.upsample_cross_entropy(*args))
    assert_gradient_accurate(
        emulator.run(compiled.BACKWARD["cuda"].run, GRAD, *args),
        reference.upsample_cross_entropy_backward(GRAD.double(), *wide),
        reference.upsample_cross_entropy_backward(GRAD, *args),
    )


@layouts
@pytest.mark.parametrize("sample", SPEC.samples, ids=lambda sample: sample.name)
def test_samples(emulator: Emulator, sample: Any, layout: torch.memory_format) -> None:
    if sample.name == "k19-h16w13-x8":  # the same in fewer pixels
        sample = sample.__class__(sample.name, sample.build, {**sample.sizes, "size": (40, 33)})
    assert_right(emulator, sample.make(torch.float32, layout=layout))


@layouts
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_low_precision(emulator: Emulator, dtype: torch.dtype, layout: torch.memory_format) -> None:
    sizes = dict(n=2, k=13, h=6, w=9, size=(17, 21), weighted=True, smoothing=0.1)
    assert_right(emulator, SPEC.samples[0].make(dtype, layout=layout, **sizes))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(dict(n=1, k=2, h=2, w=18, size=(3, 37)), id="seam-of-strips"),
        pytest.param(dict(n=1, k=35, h=2, w=2, size=(3, 5), ignored=0), id="classes-in-parts"),
        pytest.param(dict(n=1, k=3, h=2, w=3, size=(22, 5), smoothing=0.1), id="rows-in-parts"),
        pytest.param(dict(n=1, k=3, h=1, w=2, size=(2, 330)), id="cells-wider-than-a-block"),
        pytest.param(dict(n=1, k=4, h=20, w=37, size=(3, 5)), id="strips-without-pixels"),
    ],
)
def test_strips(emulator: Emulator, sizes: dict[str, Any]) -> None:
    for layout in LAYOUTS.values():
        assert_right(emulator, SPEC.samples[0].make(torch.float32, layout=layout, **sizes))


def test_views(emulator: Emulator) -> None:
    for layout in LAYOUTS.values():
        args = SPEC.samples[0].make(torch.bfloat16, layout=layout)
        assert_right(emulator, (poisoned_view(args[0]), *args[1:]))


@pytest.mark.parametrize("reduction", ["mean", "mean_all"])
@pytest.mark.parametrize("label", [6, -1, 2**40])
def test_a_label_out_of_range_is_nan(emulator: Emulator, label: int, reduction: str) -> None:
    logits, target, *rest, _ = SPEC.samples[0].make(torch.float32)
    target[1, 3, 4] = label
    assert emulator.run(compiled.FORWARD["cuda"].run, logits, target, *rest, reduction).isnan()
    assert emulator.run(compiled.BACKWARD["cuda"].run, GRAD, logits, target, *rest, reduction).isnan().any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_non_finite_logits(emulator: Emulator, value: float) -> None:
    logits, *rest = SPEC.samples[0].make(torch.float32)
    logits[0, 2, 3, 3] = value
    loss = emulator.run(compiled.FORWARD["cuda"].run, logits, *rest)
    expected = reference.upsample_cross_entropy(logits, *rest)
    assert loss.isnan() == expected.isnan() and loss.isinf() == expected.isinf()
    gradient = emulator.run(compiled.BACKWARD["cuda"].run, GRAD, logits, *rest)
    assert (
        gradient[1].isfinite().all()
        == reference.upsample_cross_entropy_backward(GRAD, logits, *rest)[1].isfinite().all()
    )


def test_corners_that_disagree_by_far(emulator: Emulator) -> None:
    """No class is near the largest of all corners inside a cell: pixels go by themselves, some of a column."""
    logits, *rest = SPEC.samples[0].make(torch.float32, n=1, k=2, h=2, w=3, size=(9, 9), smoothing=0.1)
    logits[0, :, 0, 0], logits[0, :, 0, 1] = torch.tensor([300.0, 0.0]), torch.tensor([0.0, 300.0])
    assert_right(emulator, (logits, *rest))


def test_large_logits_do_not_overflow(emulator: Emulator) -> None:
    logits, *rest = SPEC.samples[0].make(torch.float32)
    assert_right(emulator, (logits * 1000, *rest))


def test_traffic(emulator: Emulator) -> None:
    args = SPEC.samples[0].make(
        torch.bfloat16, layout=torch.channels_last, n=1, k=32, h=8, w=8, size=(64, 64)
    )
    with emulator.count() as traffic:
        compiled.BACKWARD["cuda"].run(GRAD, *args)
    # a strip's gradients are written once and gathered once; columns of one class lie side by side
    strips = 8 * 17 * 32 * 8  # rows of cells, corners, classes, bytes
    assert traffic["store_global"]["touched"] <= (strips + args[0].numel() * 2) // 32 + 64
    for kind in ("load_shared", "store_shared"):
        assert traffic[kind]["units"] <= 1.5 * traffic[kind]["fewest"], (kind, traffic[kind])
