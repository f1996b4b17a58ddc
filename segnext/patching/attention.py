"""Attention by large kernels: depthwise convolutions, a 1x1 convolution, and the product with their input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from segnext.patching.layers import Conv, convolutions, is_silent, own_tensors
from segnext.patching.plan import Plan, number_of_arguments, sample
from segnext.patching.strides import in_channels_last
from segnext_kernels import depthwise_sum, gated_pointwise, msca_conv


def _depthwise_and_mix(module: nn.Module) -> tuple[list[Conv], Conv] | None:
    """The depthwise convolutions and the last, 1x1 one, of a module that has nothing else."""
    if own_tensors(module) or number_of_arguments(module) != 1:
        return None
    convs = [conv for _, conv, _ in convolutions(module)]
    if len(convs) < 2 or None in convs:
        return None
    *depthwise, mix = cast("list[Conv]", convs)
    if not mix.is_pointwise or not all(conv.is_depthwise for conv in depthwise):
        return None
    if {conv.out_channels for conv in depthwise} != {mix.in_channels} or mix.in_channels != mix.out_channels:
        return None
    return depthwise, mix


@dataclass(frozen=True)
class StripAttention(Plan):
    """``mix(a + sum(column(row(a)))) * x`` with ``a = root(x)``, as in SegNeXt."""

    what: ClassVar[str] = "MSCA attention"
    ops: ClassVar[tuple[str, ...]] = ("msca_conv", "gated_pointwise")
    root: Conv
    rows: tuple[Conv, ...]
    columns: tuple[Conv, ...]
    mix: Conv

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        found = _depthwise_and_mix(module)
        if found is None:
            return []
        depthwise, mix = found
        root, *strips = depthwise
        rows = tuple(conv for conv in strips if conv.kernel_size[0] == 1)
        columns = tuple(conv for conv in strips if conv.kernel_size[1] == 1)
        if not rows or len(rows) != len(columns) or len(rows) + len(columns) != len(strips):
            return []
        if root.kernel_size[0] != root.kernel_size[1]:
            return []
        for conv in (*depthwise, mix):
            conv.expect_plain(module, needs_bias=True)
        if any(conv.dilation != (1, 1) for conv in depthwise):
            return []
        return [cls(root, rows, columns, mix)]

    @property
    def layers(self) -> tuple[Conv, ...]:
        return (self.root, *self.rows, *self.columns, self.mix)

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        return (sample(generator, self.mix.in_channels),)

    def run(self, module: Any, *args: Any) -> Tensor:
        (x,) = args
        root, mix = self.root.layer(module), self.mix.layer(module)
        rows = [conv.layer(module) for conv in self.rows]
        columns = [conv.layer(module) for conv in self.columns]
        m = msca_conv(
            x, root.weight, root.bias,
            [conv.weight for conv in rows], [conv.weight for conv in columns],
            [cast(Tensor, conv.bias) for conv in rows], [cast(Tensor, conv.bias) for conv in columns],
        )  # fmt: skip
        return gated_pointwise(m, x, mix.weight, mix.bias)


@dataclass(frozen=True)
class ChainAttention(Plan):
    """``mix(last(...first(x))) * x``: VAN (5x5, then 7x7 of dilation 3), LSKA, Strip R-CNN (5x5, 1x19, 19x1)."""

    what: ClassVar[str] = "large-kernel attention"
    ops: ClassVar[tuple[str, ...]] = ("depthwise_sum", "gated_pointwise")
    chain: tuple[Conv, ...]
    mix: Conv

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        found = _depthwise_and_mix(module)
        if found is None:
            return []
        depthwise, mix = found
        for conv in (*depthwise, mix):
            conv.expect_plain(module)
        return [cls(tuple(depthwise), mix)]

    @property
    def layers(self) -> tuple[Conv, ...]:
        return (*self.chain, self.mix)

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        return (sample(generator, self.mix.in_channels),)

    def run(self, module: Any, *args: Any) -> Tensor:
        (x,) = args
        mix = self.mix.layer(module)
        m = depthwise_sum(x, [[conv.layer(module) for conv in self.chain]])
        return gated_pointwise(m, x, mix.weight, mix.bias)


@dataclass(frozen=True)
class SelectiveKernel(Plan):
    """LSKNet's attention: two large kernels, one behind the other, are weighted per pixel by a spatial attention."""

    what: ClassVar[str] = "large selective kernel"
    ops: ClassVar[tuple[str, ...]] = ("depthwise_sum",)
    first: Conv
    second: Conv
    halves: tuple[Conv, Conv]
    squeeze: Conv
    mix: Conv

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        if own_tensors(module) or number_of_arguments(module) != 1:
            return []
        convs = [conv for _, conv, _ in convolutions(module)]
        if len(convs) != 6 or None in convs:
            return []
        first, second, one, two, squeeze, mix = cast("list[Conv]", convs)
        c = first.in_channels
        shapes = [(conv.in_channels, conv.out_channels) for conv in (one, two, squeeze, mix)]
        if shapes != [(c, c // 2), (c, c // 2), (2, 2), (c // 2, c)]:
            return []
        if not (first.is_depthwise and second.is_depthwise and all(c.is_pointwise for c in (one, two, mix))):
            return []
        for conv in (first, second, one, two, mix):
            conv.expect_plain(module)
        return [cls(first, second, (one, two), squeeze, mix)]

    @property
    def layers(self) -> tuple[Conv, ...]:
        return (self.first, self.second, *self.halves, self.mix)

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        return (sample(generator, self.first.in_channels),)

    def run(self, module: Any, *args: Any) -> Tensor:
        (x,) = args
        first, second = self.first.layer(module), self.second.layer(module)
        both = depthwise_sum(x, [[], [second]], root=[first], combine="cat").chunk(2, dim=1)
        parts = [conv.mix(module, part) for conv, part in zip(self.halves, both, strict=True)]
        attention = torch.cat(parts, dim=1)
        summary = torch.cat([attention.mean(1, keepdim=True), attention.max(1, keepdim=True).values], dim=1)
        shares = torch.sigmoid(self.squeeze.layer(module)(summary))
        chosen = parts[0] * shares[:, :1] + parts[1] * shares[:, 1:]
        return x * self.mix.mix(module, chosen)


@dataclass(frozen=True)
class ProjectedAttention(Plan):
    """``proj_2(unit(gelu(proj_1(x)))) + x``, around any unit."""

    what: ClassVar[str] = "attention's projections"
    ops: ClassVar[tuple[str, ...]] = ()
    is_core: ClassVar[bool] = False
    proj_in: Conv
    act: str
    unit: str
    proj_out: Conv

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        children = list(module.named_children())
        if len(children) != 4 or own_tensors(module) or number_of_arguments(module) != 1:
            return []
        convs = [conv for name, child in children if (conv := Conv.of(name, child)) and conv.is_pointwise]
        acts = [name for name, child in children if type(child) is nn.GELU]
        taken = {conv.name for conv in convs} | set(acts)
        units = [name for name, child in children if name not in taken and not is_silent(child)]
        if (len(convs), len(acts), len(units)) != (2, 1, 1):
            return []
        if {(conv.in_channels, conv.out_channels) for conv in convs} != {(convs[0].in_channels,) * 2}:
            return []
        for conv in convs:
            conv.expect_plain(module)
        return [cls(convs[0], acts[0], units[0], convs[1])]

    @property
    def layers(self) -> tuple[Conv, ...]:
        return (self.proj_in, self.proj_out)

    @property
    def called(self) -> tuple[str, ...]:
        return (self.unit,)

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        return (sample(generator, self.proj_in.in_channels),)

    def run(self, module: Any, *args: Any) -> Tensor:
        x = in_channels_last(args[0])
        u = getattr(module, self.act)(self.proj_in.mix(module, x))
        return self.proj_out.mix(module, getattr(module, self.unit)(u)) + x
