"""Reads the layers of a foreign module: what their geometry is, and why a fused op may not take their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from segnext.models.changed import is_observed
from segnext.models.layers import Convolution, Pointwise
from segnext_kernels.ops.pointwise.op import mix_channels

PLAIN = (nn.Conv2d, Convolution, Pointwise)


class InTheWay(Exception):
    """A module has the structure that a plan is for; something in it has to be called, so that it is left alone."""


@dataclass(frozen=True)
class Conv:
    """The geometry of a two-dimensional convolution inside a module.

    Attributes:
        name: where the module holds it; dots lead into children.
        bias: whether it has one.
        wrappers: the classes of the children that it is inside of.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    bias: bool
    wrappers: tuple[type[nn.Module], ...] = ()

    @classmethod
    def of(cls, name: str, layer: nn.Module, wrappers: tuple[type[nn.Module], ...] = ()) -> Conv | None:
        """Describe a layer that has the attributes of `nn.Conv2d`: also a quantised one, or the base of an adapter."""
        base: Any = getattr(layer, "base_layer", layer)
        kernel = getattr(base, "kernel_size", None)
        if not (isinstance(kernel, tuple) and len(kernel) == 2 and hasattr(base, "in_channels")):
            return None
        if getattr(base, "transposed", False) or not hasattr(base, "groups"):
            return None
        bias = base.bias() if callable(getattr(base, "bias", None)) else getattr(base, "bias", None)
        return cls(
            name,
            base.in_channels,
            base.out_channels,
            kernel,
            base.stride,
            base.padding,
            base.dilation,
            base.groups,
            getattr(base, "padding_mode", "zeros"),
            bias is not None,
            wrappers,
        )

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel is treated alone."""
        return self.in_channels == self.out_channels == self.groups

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a matrix product per pixel."""
        return self.kernel_size == (1, 1) and self.groups == 1

    @property
    def reach(self) -> tuple[int, ...]:
        """The padding that keeps the size of an image, if the kernel's sides are odd."""
        return tuple(d * (k // 2) for k, d in zip(self.kernel_size, self.dilation, strict=True))

    def layer(self, module: nn.Module) -> nn.Conv2d:
        """The layer in a module of this structure."""
        for part in self.name.split("."):
            module = getattr(module, part)
        return cast(nn.Conv2d, module)

    def mix(self, module: nn.Module, x: Tensor) -> Tensor:
        """What a 1x1 layer of the module makes of (N, C_in, H, W), as a matrix product; it is not called."""
        layer = self.layer(module)
        return mix_channels(x, layer.weight, layer.bias)

    def expect_plain(self, module: nn.Module, needs_bias: bool = False, same_size: bool = True) -> None:
        """Raise :class:`InTheWay` with the reason why a fused op may not take the layer's parameters.

        Args:
            module: holds the layer.
            needs_bias: the op has no form without.
            same_size: the op computes at stride 1 and pads zeros so that the size stays.
        """
        layer = self.layer(module)
        if type(layer) not in PLAIN:
            kind, home = type(layer).__name__, type(layer).__module__.partition(".")[0]
            whose = f" of {home}" if kind == "Conv2d" else ""  # such as PEFT's, which is an adapter
            raise InTheWay(f"{self.name} is a {kind}{whose} instead of a plain Conv2d")
        for name, part in along(module, self.name):
            if is_observed(part):
                raise InTheWay(f"{name} has hooks or a replaced forward")
        if type(layer.weight) is not nn.Parameter:
            raise InTheWay(f"the weight of {self.name} is a {type(layer.weight).__name__}")
        if self.padding_mode != "zeros":
            raise InTheWay(f"{self.name} pads with {self.padding_mode} instead of zeros")
        if needs_bias and not self.bias:
            raise InTheWay(f"{self.name} has no bias")
        if not same_size:
            return
        if any(k % 2 == 0 for k in self.kernel_size):
            raise InTheWay(f"{self.name} has an even kernel {self.kernel_size}")
        if self.stride != (1, 1):
            raise InTheWay(f"{self.name} has stride {self.stride}")
        if self.padding not in ("same", self.reach):
            raise InTheWay(f"{self.name} has padding {self.padding} instead of {self.reach}")

    def is_as_found(self, module: nn.Module) -> bool:
        """Whether the layer may still be passed by: plain, not observed, and of the same geometry."""
        try:
            *wrappers, layer = (cast(nn.Conv2d, part) for _, part in along(module, self.name))
        except AttributeError:  # something else is in a wrapper's place
            return False
        return (
            type(layer) in PLAIN
            and tuple(type(wrapper) for wrapper in wrappers) == self.wrappers
            and layer.kernel_size == self.kernel_size
            and layer.stride == self.stride
            and layer.padding == self.padding
            and layer.dilation == self.dilation
            and layer.groups == self.groups
            and layer.padding_mode == self.padding_mode
            and (layer.bias is not None) == self.bias
            and not any(is_observed(part) for part in (layer, *wrappers))
        )


def along(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield what leads from a module to a layer below it, and the layer, with their names."""
    parts = name.split(".")
    for i, part in enumerate(parts, start=1):
        module = getattr(module, part)
        yield ".".join(parts[:i]), module


def expect_unobserved(module: nn.Module, *names: str) -> None:
    """Raise :class:`InTheWay` if a child that would not be called has hooks."""
    for name in names:
        if is_observed(getattr(module, name)):
            raise InTheWay(f"{name} has hooks or a replaced forward")


def are_unobserved(module: nn.Module, *names: str | None) -> bool:
    """Whether none of these children, which are not called, has hooks."""
    return not any(is_observed(getattr(module, name)) for name in names if name is not None)


def are_idle(module: nn.Module, *names: str) -> bool:
    """Whether these children, which are not called, are still identities without hooks."""
    return all(type(getattr(module, name, None)) is nn.Identity for name in names) and are_unobserved(
        module, *names
    )


def convolutions(module: nn.Module) -> Iterator[tuple[str, Conv | None, nn.Module]]:
    """Yield the children with their names; with the geometry of those that are convolutions.

    A child that only wraps one convolution, such as ``DWConv``, counts as that convolution.
    """
    for name, child in module.named_children():
        conv = Conv.of(name, child)
        wrappers: tuple[type[nn.Module], ...] = ()
        while conv is None:
            inner = list(child.named_children())
            if len(inner) != 1 or isinstance(child, nn.ModuleList | nn.ModuleDict) or own_tensors(child):
                break
            wrappers = (*wrappers, type(child))
            name, child = f"{name}.{inner[0][0]}", inner[0][1]
            conv = Conv.of(name, child, wrappers)
        yield name, conv, child


def own_tensors(module: nn.Module) -> dict[str, Any]:
    """The parameters and buffers that a module holds itself, by name."""
    tensors = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def is_silent(module: nn.Module) -> bool:
    """Whether a module has neither parameters nor buffers: an activation, a dropout, an identity."""
    return next(module.parameters(), None) is None and next(module.buffers(), None) is None
