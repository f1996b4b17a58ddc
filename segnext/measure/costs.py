"""Counts parameters, multiply-adds and memory of a model at an input size, without computing anything.

The model runs on meta tensors, which have shapes but no data: SegNeXt-L at 1024x2048 is counted in a second.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from segnext.models import MSCAN, SegNeXt


@dataclass(frozen=True)
class PartCost:
    """The cost of one part of a model.

    Attributes:
        name: "stem", "stage 1", ..., "decoder" or "head".
        output: shape of the part's output.
        parameters: number of trainable values.
        multiply_adds: those of convolutions and matrix products in one forward pass (half the FLOPs).
        saved_bytes: size of the activations that are kept for the backward pass, in float32.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    saved_bytes: int


@dataclass(frozen=True)
class ModelCost:
    """The cost of a whole model at one input shape.

    Attributes:
        architecture: the model's name.
        input: (N, C, H, W).
        parts: in the order of the forward pass; they make up the model.
        peak_bytes: the most activations that exist at one time from input to label map (in a classifier: to
            scores), in float32; memory that an op uses inside itself is not counted.
    """

    architecture: str
    input: tuple[int, ...]
    parts: tuple[PartCost, ...]
    peak_bytes: int

    @property
    def parameters(self) -> int:
        """The number of trainable values of all parts."""
        return sum(part.parameters for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of all parts in one forward pass."""
        return sum(part.multiply_adds for part in self.parts)

    @property
    def saved_bytes(self) -> int:
        """The size of the activations that training keeps for the backward pass, in float32."""
        return sum(part.saved_bytes for part in self.parts)


def count_costs(model: SegNeXt | MSCAN, height: int, width: int, batch: int = 1) -> ModelCost:
    """Count a model's costs at an input size; the model itself is not changed.

    Args:
        model: a model on any device, including the meta device.
        height: height of the input.
        width: width of the input.
        batch: images at once.

    Raises:
        ValueError: a size is below 1.
    """
    if min(height, width, batch) < 1:
        raise ValueError(f"count_costs: size and batch must be at least 1, got {height}x{width} and {batch}")
    shape = (batch, model.config.in_channels, height, width)
    model = copy.deepcopy(model).to("meta")
    parts = _parts(model)
    watch = _Watch(parts)
    peak = PeakMemory(own=[*model.parameters(), *model.buffers()])
    model.eval()
    run = model.predict if isinstance(model, SegNeXt) else model
    with watch.counter, peak, torch.no_grad():
        run(torch.empty(shape, device="meta"))
    multiply_adds = {
        name: flops // 2 for name, flops in watch.flops.items()
    }  # those of evaluation: training has one NMF step less
    model.train()
    for module in model.modules():  # a training BatchNorm refuses one pixel, the last stage of a 32x32 image
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with saved_tensors_hooks(watch.pack, lambda kept: kept):
        model(torch.empty(shape, device="meta"))
    return ModelCost(
        architecture=model.config.architecture,
        input=shape,
        parts=tuple(
            PartCost(
                name=name,
                output=watch.outputs[name],
                parameters=sum(p.numel() for module in modules for p in module.parameters()),
                multiply_adds=multiply_adds[name],
                saved_bytes=watch.saved[name],
            )
            for name, modules in parts.items()
        ),
        peak_bytes=peak.peak,
    )


def _parts(model: SegNeXt | MSCAN) -> dict[str, list[nn.Module]]:
    """Return the modules of each part; the output of the last module is the output of the part."""
    encoder = model.backbone if isinstance(model, SegNeXt) else model
    parts: dict[str, list[nn.Module]] = {"stem": [encoder.stem]}
    for index, (stage, norm) in enumerate(zip(encoder.stages, encoder.norms, strict=True)):
        before = [encoder.downsamples[index - 1]] if index else []
        parts[f"stage {index + 1}"] = [*before, stage, norm]
    if isinstance(model, SegNeXt):
        parts["decoder"] = [model.decoder]
    elif model.head is not None:
        parts["head"] = [model.head]
    return parts


class _Watch:
    """Attributes FLOPs and saved activations to the part that is running, through hooks on its modules."""

    def __init__(self, parts: dict[str, list[nn.Module]]) -> None:
        self.counter = FlopCounterMode(display=False)
        self.flops = dict.fromkeys(parts, 0)
        self.saved = dict.fromkeys(parts, 0)
        self.outputs: dict[str, tuple[int, ...]] = {}
        self._running: str | None = None
        self._flops_before = 0
        self._seen: set[int] = set()
        for name, modules in parts.items():
            for module in modules:
                self._seen |= {_storage_id(t) for t in (*module.parameters(), *module.buffers())}
                module.register_forward_pre_hook(self._entering(name))
                module.register_forward_hook(self._left(name))

    def _entering(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Sequence[Any]) -> None:
            self._running, self._flops_before = name, self.counter.get_total_flops()

        return hook

    def _left(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Sequence[Any], output: Tensor) -> None:
            self.flops[name] += self.counter.get_total_flops() - self._flops_before
            self.outputs[name] = tuple(output.shape)
            self._running = None

        return hook

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is saved for the backward pass, once, unless it is the model's own."""
        if self._running is not None and _storage_id(tensor) not in self._seen:
            self._seen.add(_storage_id(tensor))  # the graph keeps the tensor, so its id is not used again
            self.saved[self._running] += tensor.untyped_storage().nbytes()
        return tensor


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all existing storages that were made inside the block, and their maximum.

    `own` are the model's tensors: a view of one of them is no new memory.
    """

    def __init__(self, own: Sequence[Tensor]) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._own = [tensor.untyped_storage() for tensor in own]  # keeps them, so that they stay known
        self._known: weakref.WeakSet[Any] = weakref.WeakSet(self._own)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._known:
                    self._known.add(storage)
                    self.alive += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return result

    def _freed(self, size: int) -> None:
        self.alive -= size


def _storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
