"""depthwise_sum: chains of depthwise convolutions over one tensor, added up or side by side, with mixing and gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from segnext_kernels import checks
from segnext_kernels.memory_format import as_format_of, is_channels_last
from segnext_kernels.ops.convolutions import convolution_flops
from segnext_kernels.ops.depthwise_sum import compiled, reference
from segnext_kernels.ops.depthwise_sum.chains import Label, expect_chains, listed
from segnext_kernels.ops.depthwise_sum.layers import (
    Convolution,
    parameters,
    pointwise_parameters,
)
from segnext_kernels.ops.gated_pointwise.op import gated_pointwise
from segnext_kernels.ops.pointwise.op import mix_channels
from segnext_kernels.registration import (
    define_autocast,
    define_autograd,
    define_op,
    define_vmap,
    forbid_double_backward,
)
from segnext_kernels.triton.launch import kernel_of

NAME = "depthwise_sum"
ARGUMENTS = "Tensor x, Tensor[] weights, Tensor[] biases, int[] dilations, int[] chains, str combine"
DIFFERENTIABLE = ("x", "weights", "biases")
GATES = ("product", "sigmoid")


def depthwise_sum(
    x: torch.Tensor,
    branches: Sequence[Sequence[Convolution]],
    root: Sequence[Convolution] = (),
    combine: str = "sum",
    mix: torch.nn.Conv2d | tuple[torch.Tensor, torch.Tensor | None] | None = None,
    gate: str | None = None,
    gated: torch.Tensor | None = None,
) -> torch.Tensor:
    """Large depthwise kernels of the SegNeXt family: a root, then branches of depthwise convolutions, mixed and gated.

    Same as ``a = root(x); m = sum(branch(a)); sigmoid(mix(m)) * x``, where a root or branch is a chain of depthwise
    convolutions of stride 1 and "same" padding, each of which zero-pads its own input. An empty chain is the identity.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32, float64.
        branches: one or more chains. A convolution is an `nn.Conv2d`, whose parameters are taken and which is not
            called, or (weight (C, 1, Kh, Kw), bias (C,) or None) or the same with a dilation, an integer or (y, x).
        root: the chain in front of the branches.
        combine: "sum" of the branches' results; "cat": (N, C x branches, H, W), one after the other; or "split": each
            branch reads and writes its own channels of the root's result, in order, as many as its weights have; one
            empty branch may take what remains.
        mix: a 1x1 convolution behind the branches, a layer or (weight (Co, C, 1, 1), bias (Co,) or None).
        gate: None; "product": the (mixed) result times ``gated``; or "sigmoid": the same of its sigmoid.
        gated: (N, Co, H, W); x if it is left out.

    Returns:
        (N, C, H, W), or as many channels as ``combine`` and ``mix`` say, in x's dtype and memory format; accumulated in
        float32 (float64 for float64).

    Raises:
        ValueError: shapes disagree, or a layer is no plain depthwise convolution of stride 1 that keeps the size.
            TypeError: dtypes disagree. NotImplementedError: no backend takes these inputs; the reasons are listed.

    Source: VAN (arXiv 2202.09741), SegNeXt (2209.08575), LSKNet (2303.09030), LSKA (2309.01439), InceptionNeXt
        (2303.16900), PKINet (2403.06258), Strip R-CNN (2501.03775), SLaK (2207.03620), RepLKNet (2203.06717).
    """
    taken = parameters(NAME, root, branches)
    arguments = taken.weights, taken.biases, taken.dilations, taken.chains
    if gate is not None:
        checks.expect_choice(NAME, "gate", gate, GATES)
    elif gated is not None:
        raise ValueError(f"{NAME}: gated must be None without a gate, got a tensor; give gate='product'")
    m = _checked(x, *arguments, combine, taken.label)
    gated = x if gated is None else gated
    if mix is not None:
        weight, bias = pointwise_parameters(NAME, mix)
        _expect_mix(m, weight, bias)
        if gate == "product":
            _expect_gated(m, gated, weight.shape[0])
            return gated_pointwise(m, gated, weight, bias)
        m = _mixed(m, weight, bias)
    if gate is None:
        return m
    _expect_gated(m, gated, m.shape[1])
    return m * gated if gate == "product" else m.sigmoid() * gated


def depthwise_sum_of_lists(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    dilations: Sequence[int],
    chains: Sequence[int],
    combine: str,
) -> torch.Tensor:
    """The registered operator with its arguments checked: `depthwise_sum` without mix and gate, on plain lists.

    Same as ``a = root(x); sum(branch(a))``; a root or branch is a chain of depthwise convolutions of stride 1.

    Args:
        x: (N, C, H, W).
        weights: (C, 1, Kh, Kw) of each convolution, the root's first, then branch by branch.
        biases: (C,) for each weight; or empty.
        dilations: two for each weight, y and x.
        chains: the number of convolutions of the root, then that of each branch.
        combine: "sum", "cat" or "split", see `depthwise_sum`.

    Returns:
        (N, C, H, W), for "cat" (N, C x branches, H, W), in x's dtype and memory format.

    Raises:
        ValueError: shapes or numbers of arguments disagree. TypeError: dtypes disagree. NotImplementedError: no backend
            takes these inputs.
    """
    return _checked(
        x,
        checks.expect_tensors(NAME, "weights", weights),
        checks.expect_tensors(NAME, "biases", biases),
        _integers("dilations", dilations, 1),
        _integers("chains", chains, 0),
        combine,
        listed,
    )


def _integers(name: str, values: Any, least: int) -> list[int]:
    try:
        values = list(values)
    except TypeError:
        raise TypeError(f"{NAME}: {name} must be a list of integers, got {values!r}") from None
    if all(type(value) is int and value >= least for value in values):
        return values
    expected = f"an integer, at least {least}"
    return [checks.expect_integer(NAME, f"{name}[{i}]", v, least, expected) for i, v in enumerate(values)]


def _checked(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    dilations: list[int],
    chains: list[int],
    combine: str,
    label: Label,
) -> torch.Tensor:
    checks.expect_floating(NAME, "x", x, 4, "(N, C, H, W)")
    expect_chains(NAME, x, weights, biases, dilations, chains, combine, label)
    return _op(x, weights, biases, dilations, chains, combine)


def _expect_mix(m: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    checks.expect_shape(NAME, "mix.weight", weight, ("Co", m.shape[1], 1, 1))
    checks.expect_shape(NAME, "mix.bias", bias, weight.shape[:1], optional=True)
    for name, tensor in (("mix.weight", weight), ("mix.bias", bias)):
        checks.expect_like(NAME, name, tensor, "x", m)


def _expect_gated(m: torch.Tensor, gated: torch.Tensor, channels: int) -> None:
    n, _, h, w = m.shape
    checks.expect_shape(NAME, "gated", gated, (n, channels, h, w), "it is x if it is left out")
    checks.expect_like(NAME, "gated", gated, "x", m)


def _mixed(m: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if is_channels_last(m):
        return mix_channels(m, weight, bias)
    return as_format_of(F.conv2d(m, weight, bias), m)


def _flops(x: Any, weights: Any, *_: Any, **__: Any) -> int:
    return sum(convolution_flops(x, weight) for weight in weights)


def _flops_backward(grad: Any, *args: Any, **_: Any) -> int:
    # input and weight gradients of every convolution; the recomputed forward is not counted, as by convention
    return 2 * _flops(*args)


_op = define_op(
    NAME,
    f"({ARGUMENTS}) -> Tensor",
    reference=reference.depthwise_sum,
    fake=reference.empty_output,
    kernels={**compiled.FORWARD, "triton": kernel_of(__package__, "forward")},
    flops=_flops,
)
_backward_op = define_op(
    f"{NAME}_backward",
    f"(Tensor grad, {ARGUMENTS}) -> Tensor[]",
    reference=reference.depthwise_sum_backward,
    fake=reference.empty_gradients,
    kernels={**compiled.BACKWARD, "triton": kernel_of(__package__, "backward", position=1)},
    flops=_flops_backward,
)


def _save(inputs: tuple[Any, ...], output: Any) -> tuple[tuple[Any, ...], Any]:
    x, weights, biases, *others = inputs
    return (x, *weights, *biases), (len(weights), others)


def _backward(saved: tuple[Any, ...], other: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    count, (dilations, chains, combine) = other
    x, weights, biases = saved[0], list(saved[1 : 1 + count]), list(saved[1 + count :])
    # in x's memory format, of which "cat" has more channels
    grads = _backward_op(as_format_of(grad, x), x, weights, biases, dilations, chains, combine)
    return grads[0], grads[1 : 1 + count], grads[1 + count :], None, None, None


define_autograd(NAME, save=_save, backward=_backward)
forbid_double_backward(NAME)
define_autocast(NAME)
define_vmap(NAME)
