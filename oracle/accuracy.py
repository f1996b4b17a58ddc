"""One rule decides whether a kernel's numbers are right.

The oracle is the plain PyTorch definition in float64, on inputs rounded to the tested dtype. A result may be off by
twice as much as plain ("eager") PyTorch in the tested dtype, plus the rounding of the result itself. A gradient must
also have every channel and no one-sided error, because both faults can hide below a bound on the largest error.

Eager's error is a sample. Few elements say little about how large rounding errors are when sums are taken in another
order: the single number that is the bias gradient of one channel may be exact by luck. Therefore "twice" is
2 (1 + 8 / elements).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from segnext_kernels.self_check.gradients import cast
from segnext_kernels.spec import Spec

# The largest error that is allowed at all, relative to the largest value. It is thousands of roundings in float64 and
# float32 (PyTorch's own channels_last group_norm needs them where the mean is 30 deviations) and a few in the 16-bit
# formats, whose sums are kept in float32.
CAPS = {torch.float64: 1e-12, torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
UNIT_FLOAT32 = 2.0**-24


def assert_output(spec: Spec, output: torch.Tensor, args: tuple[Any, ...]) -> None:
    """Assert that ``output`` is an op's result on ``args``, or its labels if it gives labels."""
    if output.is_floating_point():
        oracle, eager, wide = (
            spec.reference(*version)
            for version in (cast(args, torch.float64), args, cast(args, torch.float32))
        )
        assert_accurate(output, oracle, eager, wide, what=spec.name)
    else:
        assert_labels(output, *args)


def assert_accurate(
    actual: torch.Tensor,
    oracle: torch.Tensor,
    eager: torch.Tensor,
    wide: torch.Tensor | None = None,
    what: str = "result",
) -> None:
    """Assert that largest and RMS error are within 2x eager's plus 2 eps max|oracle| and the cap; NaN and Inf agree.

    Args:
        actual: the result under test, in the tested dtype.
        oracle: the definition in float64 on the same (rounded) inputs.
        eager: the definition in the tested dtype.
        wide: the definition in float32. Its error plus one rounding of the result stands in for eager's error if eager
            is not finite somewhere that the oracle is. For float64, 16 times its error at float64's scale stands in.
        what: the name in the message.
    """
    actual_error, eager_error, oracle = _errors(actual, oracle, eager, wide, what)
    if oracle.numel() == 0:
        return
    largest, eps = oracle.abs().max().item(), torch.finfo(actual.dtype).eps
    rounding = 2 * eps * largest
    cap = max(CAPS[actual.dtype] * largest, torch.finfo(actual.dtype).tiny)
    for norm, measure in (("largest", _largest), ("RMS", _rms)):
        error, allowed = measure(actual_error), min(_times(oracle) * measure(eager_error) + rounding, cap)
        assert error <= allowed, (
            f"{what}: {norm} error {error:.3e} is above {allowed:.3e}"
            f" (eager {measure(eager_error):.3e}, rounding {rounding:.3e}, cap {cap:.3e})"
        )


def assert_gradient_accurate(
    actual: torch.Tensor,
    oracle: torch.Tensor,
    eager: torch.Tensor,
    wide: torch.Tensor | None = None,
    what: str = "gradient",
) -> None:
    """Assert `assert_accurate`, that no slice along any axis is missing, and that there is no signed bias."""
    assert_accurate(actual, oracle, eager, wide, what)
    actual_error, eager_error, oracle = _errors(actual, oracle, eager, wide, what)
    _assert_no_missing_slice(actual_error, eager_error, oracle, torch.finfo(actual.dtype).eps, what)
    _assert_no_bias(actual_error, eager_error, oracle, actual.dtype, what)


def assert_labels(
    labels: torch.Tensor, logits: torch.Tensor, size: tuple[int, int], align_corners: bool = False
) -> None:
    """Assert that the label of every pixel is the oracle's, or a class that ties with it within float32 rounding.

    The oracle is ``F.interpolate(logits.float(), size, mode="bilinear", ...).argmax(1)``. Where it meets a NaN or Inf,
    the labels must be equal.
    """
    logits = logits.float()
    full = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    oracle, labels = full.argmax(1), labels.long()
    assert labels.shape == oracle.shape, (
        f"labels: shape must be {tuple(oracle.shape)}, got {tuple(labels.shape)}"
    )
    if labels.numel() == 0:
        return
    in_range = (labels >= 0) & (labels < logits.shape[1])
    assert in_range.all(), f"labels: {labels[~in_range][0].item()} is no class of {logits.shape[1]}"
    finite = full.isfinite().all(1)
    wrong = (labels != oracle) & ~finite
    assert not wrong.any(), f"labels: {int(wrong.sum())} pixels beside NaN or Inf differ from PyTorch's"
    exact = F.interpolate(logits.double(), size=size, mode="bilinear", align_corners=align_corners)
    gap = (exact.gather(1, oracle.unsqueeze(1)) - exact.gather(1, labels.unsqueeze(1))).squeeze(1)
    excess = torch.where(finite, gap - tie_width(logits, size), -1.0)
    assert (excess <= 0).all(), (
        f"labels: {int((excess > 0).sum())} pixels are no ties: the oracle's class is"
        f" up to {gap[excess > 0].max().item():.3e} above the label's"
    )


def tie_width(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return (N, H, W): how much two classes may differ at a pixel and still come out in either order in float32.

    With u = 2^-24, the source coordinate s = (i + 0.5) * (in / out) - 0.5 is rounded three times: ratio, product and
    difference. It is off by at most 3 u (s + 1), and so are the two weights that follow from it. A weight's error moves
    the value by itself times the difference of two corners, which is at most 2 M for the image's largest finite
    magnitude M. Rounding 1 - weight, four products and three sums adds at most 8 u M. Both classes may be off by that
    much, hence twice. The coordinates of aligned corners have one rounding less, and the same bound.
    """
    height, width = size
    finite = torch.where(logits.isfinite(), logits, 0).double()
    magnitude = finite.abs().amax((1, 2, 3)).view(-1, 1, 1)
    rows = (torch.arange(height, device=logits.device).double() + 0.5) * (logits.shape[2] / height) + 0.5
    columns = (torch.arange(width, device=logits.device).double() + 0.5) * (logits.shape[3] / width) + 0.5
    weights = 3 * (rows.view(-1, 1) + columns)
    return 2 * UNIT_FLOAT32 * magnitude * (2 * weights + 8)


def _errors(
    actual: torch.Tensor, oracle: torch.Tensor, eager: torch.Tensor, wide: torch.Tensor | None, what: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the errors of actual and of eager, and the oracle, in float64; they are zero where it is not finite."""
    assert oracle.dtype == torch.float64, f"{what}: the oracle must be float64, got {oracle.dtype}"
    assert actual.dtype == eager.dtype, f"{what}: dtype must be {eager.dtype}, got {actual.dtype}"
    assert actual.shape == oracle.shape == eager.shape, (
        f"{what}: shape must be {tuple(oracle.shape)}, got {tuple(actual.shape)}"
    )
    # a value that overflows when it is rounded to the dtype counts as infinite
    rounded = oracle.to(actual.dtype)
    finite = rounded.isfinite()
    # PyTorch itself differs between dtypes and layouts: gelu(inf) is NaN or inf
    equal = [(actual == by) | (actual.isnan() & by.isnan()) for by in (rounded, eager)]
    same = torch.where(finite, actual.isfinite(), equal[0] | equal[1])
    assert same.all(), (
        f"{what}: {int((~same).sum())} of {same.numel()} elements are finite where the oracle is not or"
        f" otherwise; the first is {actual[~same][0].item()} for {rounded[~same][0].item()}"
    )
    known = torch.where(finite, oracle, 0)
    eager_error = torch.where(finite, eager.double() - oracle, 0)
    if actual.dtype == torch.float64 and wide is not None:
        # The oracle is eager itself, so eager's error is unknown. 16 times float32's error at float64's scale stands
        # in: where float32's convolutions add in blocks, float64's add in one chain, with up to 16 times the error
        # (depthwise weight gradients, channels_last).
        scale = 16 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        eager_error = torch.where(finite, (wide.double() - oracle) * scale, 0)
    elif not eager_error.isfinite().all():
        assert wide is not None, (
            f"{what}: eager is not finite in {eager.dtype}; pass the definition in float32"
        )
        half_unit = torch.finfo(actual.dtype).eps / 2
        eager_error = torch.where(finite, (wide.double() - oracle).abs() + half_unit * oracle.abs(), 0)
    return torch.where(finite, actual.double() - oracle, 0), eager_error, known


def _assert_no_missing_slice(
    actual_error: torch.Tensor, eager_error: torch.Tensor, oracle: torch.Tensor, eps: float, what: str
) -> None:
    """Assert that along each axis no slice (a channel, an image, a row, a tap) lacks half of its value or more.

    Slices below 4x the allowed error are left out: they are too small to be told from rounding.
    """
    if oracle.numel() == 0:
        return
    visible = 4 * (_times(oracle) * _rms(eager_error) + eps * _rms(oracle))
    for axis in range(oracle.ndim):
        others = [a for a in range(oracle.ndim) if a != axis]
        power = oracle.square().mean(others) if others else oracle.square()
        along = (actual_error * oracle).mean(others) if others else actual_error * oracle
        missing = (power.sqrt() > visible) & (along < -0.5 * power)
        assert not missing.any(), (
            f"{what}: slice {int(missing.nonzero()[0])} of axis {axis} is missing or halved"
        )


def _assert_no_bias(
    actual_error: torch.Tensor, eager_error: torch.Tensor, oracle: torch.Tensor, dtype: torch.dtype, what: str
) -> None:
    """Assert that the mean error is chance, both signed and along the oracle's sign (all values too small or large).

    It may be twice eager's, plus five standard deviations of the mean of independent roundings, plus a floor. The floor
    is an eighth of a unit in the 16-bit formats, whose results are rounded once from float32 (truncation instead of
    rounding gives a third of a unit), and two units where the arithmetic has no wider format.
    """
    count = oracle.numel()
    if count == 0:
        return
    eps = torch.finfo(dtype).eps
    floor = eps * oracle.abs().mean().item() * (1 / 8 if dtype in (torch.float16, torch.bfloat16) else 2)
    scatter = 5 * (_times(oracle) * _rms(eager_error) + eps / 2 * _rms(oracle)) / count**0.5
    for name, sign in (("signed", torch.ones_like(oracle)), ("relative", oracle.sign())):
        bias, eager_bias = (abs((error * sign).mean().item()) for error in (actual_error, eager_error))
        allowed = _times(oracle) * eager_bias + scatter + floor
        assert bias <= allowed, (
            f"{what}: {name} bias {bias:.3e} is above {allowed:.3e} (eager {eager_bias:.3e})"
        )


def _times(oracle: torch.Tensor) -> float:
    return 2 * (1 + 8 / oracle.numel())


def _largest(error: torch.Tensor) -> float:
    return error.abs().max().item()


def _rms(error: torch.Tensor) -> float:
    return error.square().mean().sqrt().item()
