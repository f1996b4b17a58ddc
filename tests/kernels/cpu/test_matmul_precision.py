"""Tests float32 products of bfloat16 pieces on AMX's tiles, which `torch.set_float32_matmul_precision` allows.

Where the CPU has no AMX, test_sanitizers.py runs these tests on the software form of the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from oracle import transcription
from segnext import create_model, deploy
from segnext_kernels import gated_pointwise, native, use_backend
from tests.contract.cases import assert_bitwise

pytestmark = pytest.mark.skipif(
    native._C is None or native.reason_against_tiles() is not None, reason="this machine has no AMX"
)
PIECES = (
    2.0**-14
)  # of the sum of the products' magnitudes: rounding of the pieces, and the product of the lows


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Leave PyTorch's settings as they were."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def _inputs(channels: int, out: int, height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(channels + out)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    m = random(2, channels, height, width).contiguous(memory_format=torch.channels_last)
    u = random(2, out, height, width).contiguous(memory_format=torch.channels_last)
    return [m, u, random(out, channels, 1, 1), random(out)]


def _run(args: list[torch.Tensor], precision: str, threads: int) -> list[torch.Tensor]:
    """The result and the four gradients."""
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)
    leaves = [arg.detach().requires_grad_() for arg in args]
    with use_backend("cpu"):
        out = gated_pointwise(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))]


def _exact(args: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [arg.detach().double().requires_grad_() for arg in args]
    m, u, weight, bias = leaves
    out = F.conv2d(m, weight, bias) * u
    return [out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (7, 9), (16, 24)])
@pytest.mark.parametrize(("channels", "out"), [(32, 32), (64, 150), (160, 64), (96, 5)])
def test_products_of_pieces(channels: int, out: int, size: tuple[int, int]) -> None:
    args = _inputs(channels, out, *size)
    results, magnitudes = _run(args, "high", 1), _exact([arg.abs() for arg in args])
    for result, exact, magnitude in zip(results, _exact(args), magnitudes, strict=True):
        assert ((result - exact).abs() <= PIECES * magnitude).all()
    assert_bitwise(_run(args, "high", 3), results, "with three threads")


def test_whole_numbers_by_default() -> None:
    args = _inputs(64, 64, 7, 9)
    whole, pieces = _run(args, "highest", 1), _run(args, "high", 1)
    assert not torch.equal(whole[0], pieces[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_uses_tiles", lambda: False)
        assert_bitwise(_run(args, "high", 1), whole, "without tiles")


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 3.4e38, 1e-40])
@pytest.mark.parametrize("position", [0, 2], ids=["pixel", "weight"])
def test_not_finite_where_pytorch_is_not(value: float, position: int) -> None:
    """Inf in two pieces is Inf and nothing, and nothing times Inf is NaN: such sums are computed again."""
    args = _inputs(64, 64, 7, 9)
    args[position][1, 20].view(-1)[-1] = value
    out, expected = _run(args, "high", 1)[0], F.conv2d(args[0], args[2], args[3]) * args[1]
    assert torch.equal(out.isnan(), expected.isnan())
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-2, equal_nan=True)


def test_a_deployed_model() -> None:
    model = create_model("segnext_t", num_classes=7)
    model.load_state_dict(transcription.trained_like("t", 7))
    images = torch.randn(2, 3, 70, 90, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.eval().forward_logits(images)
    fast = deploy(model, matmul_precision="high")
    assert torch.get_float32_matmul_precision() == "highest"
    torch.set_num_threads(1)
    logits = fast.forward_logits(images)
    error = ((logits - expected).abs().max() / expected.abs().max()).item()
    assert error <= 1e-4, error
    assert not torch.equal(logits, deploy(model).forward_logits(images)), "no product was on tiles"
    torch.set_num_threads(3)
    assert_bitwise(fast.forward_logits(images), logits, "with three threads")
    margin = expected.topk(2, dim=1).values
    is_clear = margin[:, 0] - margin[:, 1] > 1e-3
    assert (logits.argmax(1) == expected.argmax(1))[is_clear].all()
