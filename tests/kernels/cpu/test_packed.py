"""Tests the layers with packed weights: their results are those of the ops, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from segnext_kernels import native, packed
from segnext_kernels.ops.conv2d_act.reference import empty_out
from segnext_kernels.spec import all_specs

pytestmark = pytest.mark.skipif(native._C is None, reason="the compiled library is missing")

# name -> (the op whose first sample it takes, makes a function of (x, out) and the wanted result)
Layer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def conv2d() -> tuple[Layer, torch.Tensor, torch.Tensor]:
    x, weight, bias, stride, padding, act, *rest = _args("conv2d_act")
    layer = packed.PackedConv2d(weight, bias, torch.float32, stride, padding, act)
    return layer, x, all_specs()["conv2d_act"].call(x, weight, bias, stride, padding, act, *rest)


def msca_block() -> tuple[Layer, torch.Tensor, torch.Tensor]:
    x, *weights = _args("msca_block")
    layer = packed.PackedMscaBlock(weights)
    workspace = torch.empty(packed.workspace_elements(x.shape))
    return lambda x, out: layer(x, out, workspace), x, all_specs()["msca_block"].call(x, *weights)


def conv_ffn() -> tuple[Layer, torch.Tensor, torch.Tensor]:
    x, *weights, _ = _args("conv_ffn")
    return packed.PackedConvFfn(weights), x, all_specs()["conv_ffn"].call(x, *weights, True)


def channel_norm() -> tuple[Layer, torch.Tensor, torch.Tensor]:
    x, *affine = _args("channel_norm")
    return (
        lambda x, out: packed.channel_norm(x, *affine, out),
        x,
        all_specs()["channel_norm"].call(x, *affine),
    )


def group_norm_act() -> tuple[Layer, torch.Tensor, torch.Tensor]:
    x, groups, weight, bias, eps, residual, act = _args("group_norm_act")

    def layer(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return packed.group_norm_act(x, groups, weight, bias, eps, residual, out)

    return layer, x, all_specs()["group_norm_act"].call(x, groups, weight, bias, eps, residual, act)


def resize_sum() -> tuple[Layer, torch.Tensor, torch.Tensor]:
    base, others, *rest = _args("resize_sum")
    layer: Layer = lambda base, out: packed.resize_sum(base, others, out)  # noqa: E731
    return layer, base, all_specs()["resize_sum"].call(base, others, *rest)


def nmf2d() -> tuple[Layer, torch.Tensor, torch.Tensor]:
    _, bases, steps, projection, _ = all_specs()["nmf2d_projected"].samples[0].make(b=2, shared=True)
    x = torch.rand(2, bases.shape[1], 5, 7).contiguous(memory_format=torch.channels_last)
    by_op = all_specs()["nmf2d_projected"].call(x.flatten(2), bases, steps, projection, packed.EPS)
    layer: Layer = lambda x, out: packed.nmf2d(x, bases, steps, projection, out)  # noqa: E731
    return layer, x, by_op.unflatten(2, (5, 7))


LAYERS = (conv2d, msca_block, conv_ffn, channel_norm, group_norm_act, resize_sum, nmf2d)
ELEMENTWISE = (channel_norm, group_norm_act, resize_sum)  # may write over their input
over_layers = pytest.mark.parametrize("make", LAYERS, ids=lambda make: make.__name__)


def _args(op: str) -> tuple[Any, ...]:
    return all_specs()[op].samples[0].make(layout=torch.channels_last)


def like(x: torch.Tensor, *shape: int, **options: Any) -> torch.Tensor:
    return torch.zeros(*(shape or x.shape), **options).contiguous(memory_format=torch.channels_last)


@over_layers
def test_result_is_the_ops_and_goes_nowhere_else(make: Callable[[], Any]) -> None:
    layer, x, expected = make()
    n, c, h, w = expected.shape
    guarded = torch.full((n + 2, h, w, c), torch.nan)
    out = guarded[1:-1].permute(0, 3, 1, 2)
    assert layer(x, out) is out
    torch.testing.assert_close(out, expected.float())
    assert guarded[0].isnan().all() and guarded[-1].isnan().all()


@over_layers
def test_inputs_that_do_not_fit_are_refused(make: Callable[[], Any]) -> None:
    layer, x, expected = make()
    out = like(expected)
    n, c, h, w = x.shape
    wrong = {
        "more channels": (like(x, n, c + 1, h, w), ValueError, r"\(.*\), got \("),
        "another dtype": (x.to(torch.float16), TypeError, "must be .*, got float16"),
        "another device": (x.to("meta"), ValueError, "must be on cpu.*, got meta"),
        "three axes": (x[0], ValueError, r"must be \(.*, got \("),
        "no tensor": (None, TypeError, "must be a tensor"),
    }
    for what, (bad, error, message) in wrong.items():
        with pytest.raises(error, match=rf"^packed \w+: .*{message}") as caught:
            layer(bad, out)
        assert "\n" not in str(caught.value), what


@over_layers
def test_a_tensor_that_waits_to_be_negated_is_refused(make: Callable[[], Any]) -> None:
    layer, x, expected = make()
    with pytest.raises(
        ValueError, match="must hold their values, got one of shape .* that waits to be negated"
    ):
        layer(torch._neg_view(x), like(expected))


@over_layers
def test_places_for_the_result_that_do_not_fit_are_refused(make: Callable[[], Any]) -> None:
    layer, x, expected = make()
    n, c, h, w = expected.shape
    wrong = {
        "too small": (like(x, n, c, h, w - 1), ValueError, r"out must be \(.*\), got \("),
        "another dtype": (like(x, n, c, h, w, dtype=torch.float64), TypeError, "out must be .*, got float64"),
        "another device": (like(x, n, c, h, w, device="meta"), ValueError, "out must be on cpu"),
        "contiguous": (torch.zeros(n, c, h, w), ValueError, "out must be channels_last without gaps"),
        "one row for all": (
            like(x, 1, c, 1, 1).expand(n, c, h, w),
            ValueError,
            "out must be channels_last without",
        ),
    }
    for _, (bad, error, message) in wrong.items():
        with pytest.raises(error, match=rf"^packed \w+: {message}"):
            layer(x, bad)
    if x.shape == expected.shape and make not in ELEMENTWISE:
        with pytest.raises(ValueError, match=r"^packed \w+: out must be apart from x"):
            layer(x, x)


@over_layers
def test_a_result_over_a_part_of_the_input_is_refused(make: Callable[[], Any]) -> None:
    layer, x, expected = make()
    n, c, h, w = x.shape
    memory = torch.zeros(n * c * h * w + expected.numel())
    view = memory[: x.numel()].view(n, h, w, c).permute(0, 3, 1, 2)
    n, c, h, w = expected.shape
    shifted = memory[c:][: expected.numel()].view(n, h, w, c).permute(0, 3, 1, 2)
    with pytest.raises(
        ValueError, match=r"^packed \w+: out must be apart from (x|base), got tensors that overlap"
    ):
        layer(view, shifted)


def test_a_workspace_over_another_tensor_is_refused() -> None:
    x, *weights = _args("msca_block")
    layer, needed = packed.PackedMscaBlock(weights), packed.workspace_elements(x.shape)
    memory = torch.zeros(needed + x.numel())
    n, c, h, w = x.shape
    end = memory[needed - 1 : -1].view(n, h, w, c).permute(0, 3, 1, 2)
    with pytest.raises(ValueError, match="^packed msca_block: workspace must be apart from x"):
        layer(end, torch.empty_like(x), memory[:needed])
    with pytest.raises(ValueError, match="^packed msca_block: out must be apart from workspace"):
        layer(x, end, memory[:needed])


def test_an_elementwise_layer_may_write_over_its_inputs() -> None:
    x, groups, weight, bias, eps, _, _ = _args("group_norm_act")
    expected = packed.group_norm_act(x, groups, weight, bias, eps, x, torch.empty_like(x))
    over = x.clone()
    assert torch.equal(packed.group_norm_act(over, groups, weight, bias, eps, over, over), expected)


@over_layers
def test_layers_are_made_and_run_whatever_the_default_device(make: Callable[[], Any]) -> None:
    layer, x, expected = make()
    out = like(expected)
    with torch.device("meta"):
        layer(x, out)
    torch.testing.assert_close(out, expected.float())


def test_weights_are_packed_whatever_the_default_device() -> None:
    x, weight, bias, stride, padding, act, *_ = _args("conv2d_act")
    y, *weights, _ = _args("conv_ffn")
    z, *block = _args("msca_block")
    with torch.device("meta"):
        layer = packed.PackedConv2d(weight, bias, torch.float32, stride, padding, act)
        packed.PackedConvFfn(weights)
        packed.PackedMscaBlock(block)
    out = empty_out(x, weight, stride, padding, True, True)
    assert layer(x, out).isfinite().all()


def test_weights_that_do_not_fit_are_refused() -> None:
    _, weight, bias, *_ = _args("conv2d_act")
    _, *ffn, _ = _args("conv_ffn")
    _, *block = _args("msca_block")
    with pytest.raises(ValueError, match=r"^packed conv2d: bias must be \(8,\), got \(7,\)"):
        packed.PackedConv2d(weight, bias[:-1], torch.float32)
    with pytest.raises(ValueError, match=r"^packed conv2d: weight must be on cpu, got meta"):
        packed.PackedConv2d(weight.to("meta"), None, torch.float32)
    with pytest.raises(TypeError, match=r"^packed conv2d: dtype must be float32 and bfloat16, got float16"):
        packed.PackedConv2d(weight, bias, torch.float16)
    with pytest.raises(ValueError, match=r"^packed conv_ffn: fc2_weight must be \(8, 16, 1, 1\)"):
        packed.PackedConvFfn([*ffn[:4], ffn[4][:-1], ffn[5]])
    with pytest.raises(ValueError, match=r"^packed msca_block: skip_shift must be \(8,\), got \(7,\)"):
        packed.PackedMscaBlock([*block[:-1], block[-1][:-1]])
    with pytest.raises(TypeError, match=r"^packed msca_block: proj_in_weight must be .*, got float64"):
        packed.PackedMscaBlock([w.double() if isinstance(w, torch.Tensor) else w for w in block])


def test_a_workspace_that_is_too_small_is_refused() -> None:
    x, *weights = _args("msca_block")
    layer, needed = packed.PackedMscaBlock(weights), packed.workspace_elements(x.shape)
    with pytest.raises(
        ValueError, match=rf"^packed msca_block: workspace must be .* at least {needed} elements"
    ):
        layer(x, torch.empty_like(x), torch.empty(needed - 1))
    with pytest.raises(ValueError, match=r"^packed msca_block: workspace must be on cpu"):
        layer(x, torch.empty_like(x), torch.empty(needed, device="meta"))


def test_no_address_from_elsewhere_reaches_the_library() -> None:
    """A meta tensor's address is 0."""
    x = torch.zeros(1, 8, 3, 3)
    with pytest.raises(
        ValueError, match=r"^dwconv_gelu: all tensors must be on cpu, got one of shape \(8, 1, 3, 3\)"
    ):
        native.call_cpu("dwconv_gelu", x, x.dtype, x, torch.zeros(8, 1, 3, 3, device="meta"), None, x)
    with pytest.raises(ValueError, match="must be on cpu"):
        native.address(torch.zeros(3, device="meta"))
