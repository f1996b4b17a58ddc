"""Tests the accuracy rule itself: what it must let pass, and what it must catch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from oracle.accuracy import CAPS, assert_accurate, assert_gradient_accurate, assert_labels, tie_width

LOW = (torch.float16, torch.bfloat16)
DTYPES = pytest.mark.parametrize("dtype", CAPS, ids=lambda dtype: str(dtype).removeprefix("torch."))


def product(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a matrix product as (float64 oracle, result in dtype, float32 result), with real rounding errors."""
    a, b = (
        torch.randn(4, 24, 40, dtype=torch.float64).to(dtype),
        torch.randn(4, 40, 30, dtype=torch.float64).to(dtype),
    )
    return a.double() @ b.double(), a @ b, a.float() @ b.float()


def accepts(*args: object, rule: object = assert_gradient_accurate) -> bool:
    try:
        rule(*args)  # type: ignore[operator]
    except AssertionError:
        return False
    return True


@DTYPES
def test_eager_and_the_rounded_oracle_pass(dtype: torch.dtype) -> None:
    oracle, eager, wide = product(dtype)
    assert_gradient_accurate(eager, oracle, eager, wide)
    assert_gradient_accurate(oracle.to(dtype), oracle, eager, wide)


@DTYPES
def test_four_times_eagers_error_fails(dtype: torch.dtype) -> None:
    oracle, noise = torch.randn(2, 1000, dtype=torch.float64)
    error = 4 * torch.finfo(dtype).eps * noise
    eager, wide = (oracle + error).to(dtype), (oracle + 4 * torch.finfo(torch.float32).eps * noise).float()
    # in float64 eager's error is a guess, for which 16 times as much is allowed
    times = 64 if dtype == torch.float64 else 4
    assert_accurate((oracle + times / 4 * error).to(dtype), oracle, eager, wide)
    with pytest.raises(AssertionError, match="largest error"):
        assert_accurate((oracle + times * error).to(dtype), oracle, eager, wide)


def test_a_float64_sum_in_another_order_passes() -> None:
    """PyTorch's float64 weight gradient is one long chain; a better sum is 16 times float32's error away."""
    torch.manual_seed(4)
    x, weight, grad = torch.randn(2, 16, 22, 29), torch.randn(16, 1, 1, 23), torch.randn(2, 16, 22, 29)

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        inputs = [t.to(dtype, memory_format=torch.channels_last) for t in (x, weight, grad)]
        inputs[1].requires_grad_()
        return torch.autograd.grad(F.conv2d(*inputs[:2], padding=(0, 11), groups=16), inputs[1], inputs[2])[0]

    windows = F.unfold(x.double(), (1, 23), padding=(0, 11)).view(2, 16, 23, -1)
    better = (windows * grad.double().view(2, 16, 1, -1)).sum(-1).sum(0).view(16, 1, 1, 23)
    assert_gradient_accurate(
        better, gradient(torch.float64), gradient(torch.float64), gradient(torch.float32)
    )


@pytest.mark.parametrize("dtype", [torch.float32, *LOW], ids=["fp32", "fp16", "bf16"])
def test_one_wrong_element_fails(dtype: torch.dtype) -> None:
    oracle, eager, _ = product(dtype)
    wrong = eager.clone()
    wrong[2, 3, 4] += 6 * torch.finfo(dtype).eps * oracle.abs().max() + 6 * (eager - oracle).abs().max()
    assert not accepts(wrong, oracle, eager, rule=assert_accurate)


def test_few_elements_get_more_room_but_little() -> None:
    oracle = torch.tensor([1.0 / 3], dtype=torch.float64)
    eager = (oracle + 1e-6).float()
    assert_accurate((oracle + 1e-5).float(), oracle, eager)
    assert not accepts((oracle + 3e-5).float(), oracle, eager, rule=assert_accurate)


def test_widespread_small_errors_fail_by_rms_alone() -> None:
    """Each error is below the bound on the largest; together they are too many."""
    oracle = torch.zeros(10_000, dtype=torch.float64)
    eager = torch.zeros(10_000)
    eager[0] = oracle[1] = 1.0
    oracle[0] = 1.0 - 1e-4
    eager[1] = 1.0
    wrong = (oracle + 1.5e-4).float()
    assert accepts((oracle + 1e-6).float(), oracle, eager, rule=assert_accurate)
    with pytest.raises(AssertionError, match="RMS error"):
        assert_accurate(wrong, oracle, eager)


@DTYPES
def test_the_cap_holds_however_wrong_eager_is(dtype: torch.dtype) -> None:
    oracle = torch.randn(1000, dtype=torch.float64)
    eager = (oracle * 2).to(dtype)
    wide = eager.float() if dtype != torch.float64 else (oracle * 2).float() * 1e12
    assert accepts((oracle * (1 + CAPS[dtype] / 2)).to(dtype), oracle, eager, wide, rule=assert_accurate)
    with pytest.raises(AssertionError, match="cap"):
        assert_accurate((oracle * (1 + CAPS[dtype] * 2)).to(dtype), oracle, eager, wide)


def test_non_finite_values_must_agree() -> None:
    oracle = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf, 2.0], dtype=torch.float64)
    eager = oracle.float()
    assert_accurate(eager, oracle, eager)
    for index in range(5):
        for value in (torch.nan, torch.inf, -torch.inf, 1.0):
            actual = eager.clone()
            actual[index] = value
            same = str(value) == str(oracle[index].item())
            assert accepts(actual, oracle, eager, rule=assert_accurate) == same


def test_non_finite_values_may_be_eagers() -> None:
    """PyTorch's own gelu(inf) is NaN for some dtypes and layouts."""
    oracle, eager = torch.tensor([torch.inf, 1.0], dtype=torch.float64), torch.tensor([torch.nan, 1.0])
    assert_accurate(eager, oracle, eager)
    assert_accurate(oracle.float(), oracle, eager)
    assert not accepts(torch.tensor([0.0, 1.0]), oracle, eager, rule=assert_accurate)


def test_float32_stands_in_where_eager_overflows() -> None:
    """Intermediate values exceed 65504 on the way to a small result, as in the NMF."""
    x = torch.rand(8, 4096, dtype=torch.float64).half() * 30
    exact, eager = (x.to(t).square().sum(1) / x.shape[1] for t in (torch.float64, torch.float16))
    wide = x.float().square().sum(1) / x.shape[1]
    assert not eager.isfinite().all() and exact.max() < 1000
    assert_accurate(exact.half(), exact, eager, wide)
    assert not accepts((exact * 1.01).half(), exact, eager, wide, rule=assert_accurate)
    with pytest.raises(AssertionError, match="pass the definition in float32"):
        assert_accurate(exact.half(), exact, eager)


def test_shape_and_dtype_must_agree() -> None:
    oracle, eager, _ = product(torch.float32)
    for wrong in (eager[:1], eager.mT, eager.half(), eager[..., None]):
        assert not accepts(wrong, oracle, eager, rule=assert_accurate)


def test_empty_results_pass() -> None:
    empty = torch.zeros(0, 3, 4)
    assert_gradient_accurate(empty, empty.double(), empty, empty)


@pytest.mark.parametrize("dtype", LOW, ids=["fp16", "bf16"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("left", [0.0, 0.4])
def test_missing_channel_fails(dtype: torch.dtype, axis: int, left: float) -> None:
    """One value elsewhere is so large that the others drown in its rounding: only slices show it."""
    oracle = torch.randn(6, 40, 30, dtype=torch.float64)
    oracle[3, 5, 7] = 512 if dtype == torch.bfloat16 else 4096
    eager = oracle.to(dtype)
    assert_gradient_accurate(eager, oracle, eager)
    missing = eager.clone()
    missing.select(axis, 2).mul_(left)
    with pytest.raises(AssertionError, match=f"slice 2 of axis {axis} is missing or halved"):
        assert_gradient_accurate(missing, oracle, eager)
    assert accepts(missing, oracle, eager, rule=assert_accurate), "the plain rule was to be blind to this"


@pytest.mark.parametrize("dtype", LOW, ids=["fp16", "bf16"])
def test_cutting_digits_off_instead_of_rounding_fails(dtype: torch.dtype) -> None:
    oracle = torch.randn(20, 40, 30, dtype=torch.float64)
    eager = oracle.to(dtype)
    shorter = torch.nextafter(eager, torch.zeros_like(eager))
    cut = torch.where(eager.double().abs() > oracle.abs(), shorter, eager)
    with pytest.raises(AssertionError, match="relative bias"):
        assert_gradient_accurate(cut, oracle, eager)
    assert accepts(cut, oracle, eager, rule=assert_accurate), "the plain rule was to be blind to this"


@DTYPES
def test_one_sided_error_fails(dtype: torch.dtype) -> None:
    """All values are a little too high: within the bound on the largest error, but nothing averages out."""
    oracle, eager, wide = product(dtype)
    eager = oracle.to(dtype)
    wide = oracle.float()
    shift = 1.2 * torch.finfo(dtype).eps * oracle.abs().max()
    with pytest.raises(AssertionError, match="signed bias"):
        assert_gradient_accurate((oracle + shift).to(dtype), oracle, eager, wide)
    assert accepts((oracle + shift).to(dtype), oracle, eager, wide, rule=assert_accurate)


SIZE = (37, 50)


def upsampled(logits: torch.Tensor) -> torch.Tensor:
    return F.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)


def test_labels_of_either_precision_pass() -> None:
    logits = torch.randn(2, 30, 12, 9) * 5
    assert_labels(upsampled(logits).argmax(1).to(torch.uint8), logits, SIZE)
    assert_labels(upsampled(logits.double()).argmax(1), logits, SIZE)


def test_labels_may_differ_at_ties_only() -> None:
    logits = torch.randn(1, 4, 12, 9)
    logits[:, 3] = logits[:, 1]
    labels = upsampled(logits).argmax(1)
    assert (labels == 1).any()
    assert_labels(torch.where(labels == 1, 3, labels), logits, SIZE)
    logits[:, 3] -= 1e-3
    with pytest.raises(AssertionError, match="are no ties"):
        assert_labels(torch.where(labels == 1, 3, labels), logits, SIZE)


def test_one_wrong_label_fails() -> None:
    logits = torch.randn(2, 5, 12, 9)
    labels = upsampled(logits).argmax(1)
    labels[1, 20, 30] = (labels[1, 20, 30] + 1) % 5
    with pytest.raises(AssertionError, match="1 pixels are no ties"):
        assert_labels(labels, logits, SIZE)
    labels[1, 20, 30] = 5
    with pytest.raises(AssertionError, match="5 is no class of 5"):
        assert_labels(labels, logits, SIZE)


def test_labels_beside_nan_must_be_equal() -> None:
    logits = torch.randn(1, 5, 12, 9)
    logits[0, 2, 6, 4] = torch.nan
    labels = upsampled(logits).argmax(1)
    assert_labels(labels, logits, SIZE)
    row, column = (upsampled(logits).isnan().any(1)[0]).nonzero()[0].tolist()
    labels[0, row, column] = 1
    with pytest.raises(AssertionError, match="1 pixels beside NaN or Inf differ"):
        assert_labels(labels, logits, SIZE)


@pytest.mark.parametrize("size", [(37, 50), (96, 72), (5, 4), (511, 333)])
def test_tie_width_covers_pytorchs_own_rounding_closely(size: tuple[int, int]) -> None:
    """No value of F.interpolate in float32 is off by half the width, and some come within a factor of 50."""
    logits = torch.randn(2, 20, 12, 9) * 3
    both = [
        F.interpolate(logits.to(t), size=size, mode="bilinear").double()
        for t in (torch.float32, torch.float64)
    ]
    share = ((both[0] - both[1]).abs().amax(1) / (tie_width(logits, size) / 2)).max().item()
    assert 0.02 < share < 1
