"""Tests what depthwise_sum's public function does before its registered operator: layers, mixing, the gate, errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from segnext_kernels import depthwise_sum

C = 8


def convolution(height: int, width: int, dilation: int = 1, channels: int = C, **rest: Any) -> nn.Conv2d:
    padding = (height // 2 * dilation, width // 2 * dilation)
    kernel = (height, width)
    settings: dict[str, Any] = {"padding": padding, "dilation": dilation, "groups": channels, **rest}
    return nn.Conv2d(channels, channels, kernel, **settings)


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, C, 9, 6)


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_van(x: torch.Tensor) -> None:
    root, dilated, mix = convolution(5, 5), convolution(7, 7, 3), nn.Conv2d(C, C, 1)
    out = depthwise_sum(x, [[root, dilated]], mix=mix, gate="product")
    assert_same(out, mix(dilated(root(x))) * x)


def test_lsknet_side_by_side(x: torch.Tensor) -> None:
    root, dilated = convolution(5, 5), convolution(7, 7, 3)
    out = depthwise_sum(x, [[], [dilated]], root=[root], combine="cat")
    assert_same(out, torch.cat([root(x), dilated(root(x))], 1))


def test_pkinet_with_a_sigmoid_of_another_tensor(x: torch.Tensor) -> None:
    row, column, mix = convolution(1, 11, padding="same"), convolution(11, 1), nn.Conv2d(C, 5, 1)
    gated = torch.randn(2, 5, 9, 6)
    out = depthwise_sum(x, [nn.Sequential(row, column)], mix=mix, gate="sigmoid", gated=gated)
    assert_same(out, mix(column(row(x))).sigmoid() * gated)


def test_inceptionnext_takes_slices(x: torch.Tensor) -> None:
    square, row, column = (convolution(*k, channels=2) for k in ((3, 3), (1, 11), (11, 1)))
    out = depthwise_sum(x, [[], [square], [row], [column]], combine="split")
    same, *rest = x.split(2, 1)
    assert_same(out, torch.cat([same, square(rest[0]), row(rest[1]), column(rest[2])], 1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("gate", [None, "product", "sigmoid"])
@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
def test_every_gate_keeps_the_memory_format(
    x: torch.Tensor, layout: torch.memory_format, gate: str | None, mixed: bool
) -> None:
    x = x.contiguous(memory_format=layout)
    conv, mix = convolution(3, 3), nn.Conv2d(C, C, 1)
    m = conv(x)
    m = mix(m) if mixed else m
    expected = {None: m, "product": m * x, "sigmoid": m.sigmoid() * x}[gate]
    out = depthwise_sum(x, [[conv]], mix=mix if mixed else None, gate=gate)
    assert_same(out, expected)
    assert out.is_contiguous(memory_format=layout)


def test_tuples_are_layers(x: torch.Tensor) -> None:
    one, two = convolution(3, 5, bias=False), convolution(7, 7, 3)
    by_tuples = depthwise_sum(x, [[(one.weight, None)], [(two.weight, two.bias, (3, 3))]])
    assert torch.equal(by_tuples, depthwise_sum(x, [[one], [two]]))
    assert torch.equal(by_tuples, depthwise_sum(x, [[(one.weight, None, 1)], [(two.weight, two.bias, 3)]]))
    assert_same(by_tuples, one(x) + two(x))


def test_gradients_of_the_layers(x: torch.Tensor) -> None:
    """One layer without a bias among others: zeros that stand in for it get no gradient that anybody sees."""
    layers = [convolution(5, 5), convolution(1, 7, bias=False), convolution(7, 1), nn.Conv2d(C, C, 1)]
    root, row, column, mix = layers
    x.requires_grad_()
    leaves = [x, *(p for layer in layers for p in layer.parameters())]
    actual = depthwise_sum(x, [[], [row, column]], root=[root], mix=mix, gate="product").square().sum()
    a = root(x)
    expected = (mix(a + column(row(a))) * x).square().sum()
    pairs = zip(torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_compiles_in_one_graph(x: torch.Tensor) -> None:
    torch._dynamo.reset()
    row, column, mix = convolution(1, 7), convolution(7, 1, bias=False), nn.Conv2d(C, C, 1)

    def function(x: torch.Tensor) -> torch.Tensor:
        return depthwise_sum(x, [[], [row, column]], mix=mix, gate="sigmoid")

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), function(x))


def hooked() -> nn.Conv2d:
    conv = convolution(3, 3)
    conv.register_forward_hook(lambda *_: None)
    return conv


class Adapter(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def with_padding_mode(mode: Any) -> nn.Conv2d:
    return convolution(3, 3, padding_mode=mode)


WEIGHT = torch.zeros(C, 1, 3, 3)
BAD_CALLS: dict[str, tuple[Callable[[torch.Tensor], Any], type[Exception], str]] = {
    "one-layer-for-a-chain": (
        lambda x: depthwise_sum(x, [convolution(3, 3)]),  # type: ignore[list-item]
        TypeError,
        r"branches\[0\] must be a sequence of convolutions, got Conv2d; put it into a list",
    ),
    "one-tuple-for-a-chain": (
        lambda x: depthwise_sum(x, [[]], root=(WEIGHT, None)),  # type: ignore[arg-type]
        TypeError,
        r"root must be a sequence of convolutions, got one convolution; put it into a list",
    ),
    "branches-none": (
        lambda x: depthwise_sum(x, None),  # type: ignore[arg-type]
        TypeError,
        r"branches must be a sequence of chains, got NoneType",
    ),
    "another-layer": (
        lambda x: depthwise_sum(x, [[nn.ReLU()]]),  # type: ignore[list-item]
        TypeError,
        r"branches\[0\]\[0\] must be an nn.Conv2d or a tuple .*, got ReLU",
    ),
    "hooks": (
        lambda x: depthwise_sum(x, [[], [hooked()]]),
        ValueError,
        r"branches\[1\]\[0\] must have no hooks, got some; ",
    ),
    "adapter": (
        lambda x: depthwise_sum(x, [[]], root=[Adapter(C, C, 3, padding=1, groups=C)]),
        ValueError,
        r"root\[0\] must be a plain nn.Conv2d, got Adapter with a forward of its own",
    ),
    "padding-mode": (
        lambda x: depthwise_sum(x, [[with_padding_mode("reflect")]]),
        ValueError,
        r"branches\[0\]\[0\] must have padding_mode 'zeros', got 'reflect'",
    ),
    "stride": (
        lambda x: depthwise_sum(x, [[convolution(3, 3, stride=2)]]),
        ValueError,
        r"branches\[0\]\[0\] must have stride 1 and padding that keeps the size, got Conv2d",
    ),
    "no-padding": (
        lambda x: depthwise_sum(x, [[convolution(3, 3, padding="valid")]]),
        ValueError,
        r"branches\[0\]\[0\] must have stride 1 and padding that keeps the size, got Conv2d",
    ),
    "dense": (
        lambda x: depthwise_sum(x, [[convolution(3, 3, groups=1)]]),
        ValueError,
        r"branches\[0\]\[0\] must have as many groups as channels, got Conv2d",
    ),
    "channels": (
        lambda x: depthwise_sum(x, [[convolution(3, 3, channels=4)]]),
        ValueError,
        r"branches\[0\]\[0\].weight must be \(8, 1, Kh, Kw\), got \(4, 1, 3, 3\)",
    ),
    "split-channels": (
        lambda x: depthwise_sum(x, [[convolution(3, 3, channels=5)]], combine="split"),
        ValueError,
        r"branches\[0\]\[0\].weight and the first weights of .* must have x's 8 channels together, got 5",
    ),
    "split-nothing-left": (
        lambda x: depthwise_sum(x, [[convolution(3, 3)], []], combine="split"),
        ValueError,
        r"branches\[0\]\[0\].weight and .* must have fewer than x's 8 channels together, got 8",
    ),
    "dilation": (
        lambda x: depthwise_sum(x, [[(WEIGHT, None, 0)]]),
        ValueError,
        r"branches\[0\]\[0\].dilation must be an integer, at least 1, got 0",
    ),
    "no-branch": (
        lambda x: depthwise_sum(x, []),
        ValueError,
        r"chains must be the length of the root and those of one branch or more, got \[0\]",
    ),
    "mix-shape": (
        lambda x: depthwise_sum(x, [[]], mix=nn.Conv2d(4, 4, 1)),
        ValueError,
        r"mix.weight must be \(Co, 8, 1, 1\), got \(4, 4, 1, 1\)",
    ),
    "mix-kernel": (
        lambda x: depthwise_sum(x, [[]], mix=nn.Conv2d(C, C, 3, padding=1)),
        ValueError,
        r"mix must be a 1x1 convolution of stride 1 and one group, got Conv2d",
    ),
    "mix-type": (
        lambda x: depthwise_sum(x, [[]], mix=nn.Linear(C, C)),  # type: ignore[arg-type]
        TypeError,
        r"mix must be an nn.Conv2d or a tuple \(weight, bias\), got Linear",
    ),
    "gate": (
        lambda x: depthwise_sum(x, [[]], gate="tanh"),
        ValueError,
        r"gate must be 'product' or 'sigmoid', got 'tanh'",
    ),
    "gated-without-gate": (
        lambda x: depthwise_sum(x, [[]], gated=x),
        ValueError,
        r"gated must be None without a gate, got a tensor",
    ),
    "gated-shape": (
        lambda x: depthwise_sum(x, [[], []], combine="cat", gate="product"),
        ValueError,
        r"gated must be \(2, 16, 9, 6\), got \(2, 8, 9, 6\); it is x if it is left out",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name: str, x: torch.Tensor) -> None:
    call, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=rf"^depthwise_sum: {message}") as caught:
        call(x)
    assert re.search(r" must .*, got ", str(caught.value)), "the wording of all errors"
    assert "\n" not in str(caught.value)
