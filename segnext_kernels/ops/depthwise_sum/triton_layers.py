"""Depthwise convolutions as depthwise_sum's Triton kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Layer:
    """A depthwise convolution.

    Attributes:
        taps: (Kh Kw, C) from the first tap that is read on; one more row for the bias, where there is one.
        steps: from a tap to the one below it and to the one on its right, in rows of ``taps``.
        size: Kh and Kw.
        dilation: of rows and columns.
        has_bias: whether the last row is added.
    """

    taps: torch.Tensor
    steps: tuple[int, int]
    size: tuple[int, int]
    dilation: tuple[int, int]
    has_bias: bool

    def turned(self) -> Layer:
        """The convolution that makes the gradient of this one's input: taps in reverse order, no bias."""
        last = self.size[0] * self.size[1] - 1
        return replace(self, taps=self.taps[last:], steps=(-self.steps[0], -self.steps[1]), has_bias=False)

    def transposed(self) -> Layer:
        """The same on images whose rows and columns are exchanged."""
        return replace(self, steps=self.steps[::-1], size=self.size[::-1], dilation=self.dilation[::-1])

    @property
    def words(self) -> str:
        """Size and dilation, in the key of a launch configuration: 7x7d3x3."""
        return "x".join(map(str, self.size)) + "d" + "x".join(map(str, self.dilation))


def packed(
    weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], dilations: Sequence[int]
) -> list[Layer]:
    """The layers of these parameters. One `torch.cat` packs all of the same number of channels, in rows of channels."""
    parts: dict[int, list[torch.Tensor]] = {}
    for index, weight in enumerate(weights):
        rows = [weight, *biases[index : index + 1]]
        parts.setdefault(weight.shape[0], []).extend(t.reshape(weight.shape[0], -1).T for t in rows)
    rest = {channels: torch.cat(tensors) for channels, tensors in parts.items()}
    layers = []
    for weight, dh, dw in zip(weights, dilations[::2], dilations[1::2], strict=True):
        channels, _, kh, kw = weight.shape
        count = kh * kw + bool(biases)
        taps, rest[channels] = rest[channels][:count], rest[channels][count:]
        layers.append(Layer(taps, (kw, 1), (kh, kw), (dh, dw), bool(biases)))
    return layers
