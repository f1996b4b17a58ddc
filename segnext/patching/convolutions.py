"""Convolutions with their normalisation and activation: stems, downsamplings, the layers of decoders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segnext.models.layers import norm_act
from segnext.patching.layers import (
    Conv,
    are_idle,
    are_unobserved,
    convolutions,
    expect_unobserved,
    own_tensors,
)
from segnext.patching.plan import Plan, are_images, number_of_arguments, sample
from segnext.patching.strides import in_channels_last

RESULTS = ("map", "tokens", "map and size")
ACTIVATIONS = (nn.GELU, nn.ReLU)


@dataclass(frozen=True)
class Step:
    """A convolution, then a normalisation and an activation where their names are given.

    Attributes:
        conv, norm, act: the layers.
        idle: children that are identities, which are not called.
    """

    conv: Conv
    norm: str | None = None
    act: str | None = None
    idle: tuple[str, ...] = ()

    def is_as_found(self, module: Any) -> bool:
        """Whether what is passed by in a module is still what it was."""
        return self.conv.is_as_found(module) and are_idle(module, *self.idle)

    def run(self, module: Any, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W')."""
        fits = self.conv.is_pointwise and self.conv.stride == (1, 1) and self.conv.padding in ((0, 0), "same")
        x = in_channels_last(x)
        # A one-channel image is in both formats, and a convolution's result may then be in the other one.
        x = in_channels_last(self.conv.mix(module, x) if fits else self.conv.layer(module)(x))
        norm = None if self.norm is None else getattr(module, self.norm)
        act = None if self.act is None else getattr(module, self.act)
        if norm is not None and type(act) is nn.ReLU and are_unobserved(module, self.act):
            return norm_act(norm, x)
        x = x if norm is None else norm(x)
        return x if act is None else act(x)


@dataclass(frozen=True)
class Convolutions(Plan):
    """Convolutions that shrink an image or mix channels, in channels_last, each with normalisation and activation.

    Attributes:
        steps: one per convolution.
        result: "map" (N, C, H, W); "tokens" ((N, H W, C), H, W); "map and size" ((N, C, H, W), H, W).
    """

    what: ClassVar[str] = "convolution, norm, activation in channels_last"
    ops: ClassVar[tuple[str, ...]] = ()
    is_core: ClassVar[bool] = False
    steps: tuple[Step, ...]
    result: str

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        steps = cls.steps_of(module)
        if not steps or own_tensors(module) or any(step.norm is None and step.act is None for step in steps):
            return []
        # Other convolutions gain nothing, and the rest of their network may prefer another memory format.
        if not all(step.conv.is_pointwise or max(step.conv.stride) > 1 for step in steps):
            return []
        if isinstance(module, nn.Sequential):
            return [cls(tuple(steps), "map")]
        return [] if number_of_arguments(module) != 1 else [cls(tuple(steps), result) for result in RESULTS]

    @classmethod
    def steps_of(cls, module: nn.Module) -> list[Step]:
        """The steps of a module whose children are convolutions, normalisations and activations; else none."""
        steps: list[Step] = []
        for name, conv, child in convolutions(module):
            last = steps[-1] if steps else None
            if conv is not None and not conv.is_depthwise:
                steps.append(Step(conv))
            elif last is None:
                return []
            elif isinstance(child, _BatchNorm | nn.GroupNorm) and last.norm is None and last.act is None:
                steps[-1] = replace(last, norm=name)
            elif isinstance(child, ACTIVATIONS) and last.act is None:
                steps[-1] = replace(last, act=name)
            elif type(child) is nn.Identity:
                expect_unobserved(module, name)
                steps[-1] = replace(last, idle=(*last.idle, name))
            else:
                return []
        if len(steps) > 2:
            return []
        for step in steps:
            step.conv.expect_plain(module, same_size=False)
        return steps

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        return (sample(generator, self.steps[0].conv.in_channels),)

    @property
    def norms_called(self) -> tuple[str, ...]:
        return tuple(step.norm for step in self.steps if step.norm is not None)

    def takes(self, module: Any, *args: Any) -> bool:
        return are_images(*args) and all(step.is_as_found(module) for step in self.steps)

    def run(self, module: Any, *args: Any) -> Any:
        x = args[0]
        for step in self.steps:
            x = step.run(module, x)
        height, width = x.shape[2:]
        if self.result == "tokens":
            return x.flatten(2).mT, height, width
        return x if self.result == "map" else (x, height, width)
