"""The convolutional feed-forward network, and the block that adds attention and feed-forward network to its input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segnext.patching.layers import (
    Conv,
    InTheWay,
    are_idle,
    are_unobserved,
    convolutions,
    expect_unobserved,
    is_silent,
    own_tensors,
)
from segnext.patching.plan import SAMPLE, Plan, number_of_arguments, sample
from segnext.patching.strides import in_channels_last
from segnext_kernels import conv_ffn, dwconv_gelu


@dataclass(frozen=True)
class FeedForward(Plan):
    """``fc2(gelu(dw3x3(fc1(x))))`` on (N, C, H, W), with dropout behind the GELU and at the end.

    Attributes:
        fc1, dw, fc2, act: the layers.
        drops: the dropouts behind the GELU and at the end, which may be one and the same.
        idle: children that are identities, which are not called.
    """

    what: ClassVar[str] = "convolutional feed-forward network"
    ops: ClassVar[tuple[str, ...]] = ("conv_ffn",)
    fc1: Conv
    dw: Conv
    fc2: Conv
    act: str
    drops: tuple[str | None, str | None]
    idle: tuple[str, ...]

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        if own_tensors(module) or number_of_arguments(module) != 1:
            return []
        convs: list[Conv] = []
        silent: dict[type[nn.Module], list[str]] = {nn.GELU: [], nn.Dropout: [], nn.Identity: []}
        for name, conv, child in convolutions(module):
            if conv is not None:
                convs.append(conv)
            elif type(child) in silent:
                silent[type(child)].append(name)
            else:
                return []
        acts, drops, idle = silent.values()
        if len(convs) != 3 or len(acts) != 1 or len(drops) > 2:
            return []
        fc1, dw, fc2 = convs
        fits = fc1.is_pointwise and fc2.is_pointwise and dw.is_depthwise and dw.kernel_size == (3, 3)
        if not fits or not fc1.out_channels == dw.in_channels == fc2.in_channels:
            return []
        if (approximate := getattr(module, acts[0]).approximate) != "none":
            raise InTheWay(f"its GELU is approximated by {approximate}")
        expect_unobserved(module, *acts, *drops, *idle)
        for conv in convs:
            conv.expect_plain(module, needs_bias=True)
        if dw.dilation != (1, 1):
            raise InTheWay(f"{dw.name} has dilation {dw.dilation}")
        places: list[tuple[str | None, str | None]] = [(None, None)]
        if len(drops) == 2:
            places = [(drops[0], drops[1]), (drops[1], drops[0])]
        elif drops:
            places = [(drops[0], drops[0]), (drops[0], None), (None, drops[0])]
        return [cls(fc1, dw, fc2, acts[0], place, tuple(idle)) for place in places]

    @property
    def layers(self) -> tuple[Conv, ...]:
        return (self.fc1, self.dw, self.fc2)

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        return (sample(generator, self.fc1.in_channels),)

    @property
    def dropping(self) -> tuple[str, ...]:
        return tuple({name for name in self.drops if name is not None})

    def takes(self, module: Any, *args: Any) -> bool:
        act = getattr(module, self.act)
        drops = [getattr(module, name) for name in self.drops if name is not None]
        return (
            type(act) is nn.GELU
            and act.approximate == "none"
            and all(type(drop) in (nn.Dropout, nn.Identity) for drop in drops)
            and are_unobserved(module, self.act, *self.drops)
            and are_idle(module, *self.idle)
            and super().takes(module, *args)
        )

    def run(self, module: Any, *args: Any) -> Tensor:
        (x,) = args
        fc1, dw, fc2 = (conv.layer(module) for conv in self.layers)
        drops = [nn.Identity() if name is None else getattr(module, name) for name in self.drops]
        if not any(type(drop) is nn.Dropout and drop.training and drop.p > 0 for drop in drops):
            bias1, dw_bias, bias2 = (cast(Tensor, conv.bias) for conv in (fc1, dw, fc2))
            return conv_ffn(
                x, fc1.weight, bias1, dw.weight, dw_bias, fc2.weight, bias2, recompute=not module.training
            )
        hidden = dwconv_gelu(self.fc1.mix(module, x), dw.weight, dw.bias)
        return drops[1](self.fc2.mix(module, drops[0](hidden)))


@dataclass(frozen=True)
class Block(Plan):
    """``x + scale1 * attention(norm1(x))``, then the same with the feed-forward network, with stochastic depth.

    Attributes:
        drop: the module that drops whole samples, if there is one.
        drop_kind: its class.
        tokens: whether x is (N, H W, C), with H and W as further arguments.
    """

    what: ClassVar[str] = "residual block"
    ops: ClassVar[tuple[str, ...]] = ()
    is_core: ClassVar[bool] = False
    channels: int
    scales: tuple[str, str]
    norms: tuple[str, str]
    branches: tuple[str, str]
    drop: str | None
    drop_kind: type[nn.Module] | None
    tokens: bool

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        scales = own_tensors(module)
        arguments = number_of_arguments(module)
        if len(scales) != 2 or arguments not in (1, 3) or any(t.ndim != 1 for t in scales.values()):
            return []
        norms, branches, drops = [], [], []
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                norms.append(name)
            elif is_silent(child):
                drops.append(name)
            else:
                branches.append(name)
        if (len(norms), len(branches)) != (2, 2) or len(drops) > 1:
            return []
        one, two = scales
        channels = {scales[one].numel(), scales[two].numel()}
        if len(channels) != 1:
            return []
        expect_unobserved(module, *drops)
        drop = drops[0] if drops else None
        (norm1, norm2), (attention, feed_forward) = norms, branches
        drop_kind = None if drop is None else type(getattr(module, drop))
        two_branches = (attention, feed_forward)
        return [
            cls(channels.pop(), (one, two), (norm1, norm2), two_branches, drop, drop_kind, arguments == 3)
        ]

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        x = sample(generator, self.channels)
        return (x.flatten(2).mT.contiguous(), *SAMPLE[1:]) if self.tokens else (x,)

    @property
    def dropping(self) -> tuple[str, ...]:
        return () if self.drop is None else (self.drop,)

    @property
    def called(self) -> tuple[str, ...]:
        return self.branches

    @property
    def norms_called(self) -> tuple[str, ...]:
        return self.norms

    def takes(self, module: Any, *args: Any) -> bool:
        x, *size = args
        fits = isinstance(x, Tensor) and (x.ndim, len(size)) == ((3, 2) if self.tokens else (4, 0))
        if not fits or self.drop is None:
            return fits
        # it is called with other values than by the module
        return type(getattr(module, self.drop)) is self.drop_kind and are_unobserved(module, self.drop)

    def run(self, module: Any, *args: Any) -> Tensor:
        x = args[0]
        if self.tokens:
            _, height, width = args
            x = x.mT.unflatten(2, (height, width))
        x = in_channels_last(x)
        for scale, norm, branch in zip(self.scales, self.norms, self.branches, strict=True):
            y = getattr(module, branch)(getattr(module, norm)(x))
            factor = getattr(module, scale).view(1, -1, 1, 1)
            if self.drop is not None:
                # It decides per sample, so that what it does to ones says what it does to all.
                factor = factor * getattr(module, self.drop)(factor.new_ones(x.shape[0], 1, 1, 1))
            x = in_channels_last(torch.addcmul(x, y, factor))
        return x.flatten(2).mT if self.tokens else x
