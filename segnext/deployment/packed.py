"""Runs the folded network on packed weights in planned memory, on a CPU with the compiled library."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from segnext.deployment.network import Network
from segnext.deployment.parts import (
    NORM_EPS,
    FoldedAttention,
    FoldedConv,
    FoldedFeedForward,
    FoldedNorm,
    FoldedWeights,
    Layer,
    Layers,
    Part,
    arguments,
    mapped,
)
from segnext.deployment.plan import Plan, plan_memory
from segnext.models import SegNeXtConfig
from segnext_kernels import packed, resize_sum

PLANS = 2  # input shapes whose memory is kept


class PackedNetwork(Network):
    """Each call takes a plan of its own, so that several threads may run at once.

    Args:
        layers: makes the layers, which write to the plan's memory; `PackedLayers` of ``dtype`` by default.
    """

    def __init__(
        self, weights: FoldedWeights, config: SegNeXtConfig, dtype: torch.dtype, layers: Layers | None = None
    ) -> None:
        super().__init__(weights, config, PackedLayers(dtype) if layers is None else layers)
        self.weights, self.config, self.dtype = weights, config, dtype
        self._plans: OrderedDict[tuple[int, ...], list[Plan]] = OrderedDict()
        self._lock = threading.Lock()

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (N, K, ceil(H/8), ceil(W/8)) in float32."""
        images = images.resolve_neg()
        key = (images.shape[0], *images.shape[2:])
        plan = self._take(key)
        out = self.run(images, plan)
        self._give_back(key, plan)
        return out

    def _take(self, key: tuple[int, ...]) -> Plan:
        with self._lock:
            free = self._plans.get(key)
            if free:
                return free.pop()
        return plan_memory(self.weights, self.config, self.dtype, *key)

    def _give_back(self, key: tuple[int, ...], plan: Plan) -> None:
        with self._lock:
            self._plans.setdefault(key, []).append(plan)
            self._plans.move_to_end(key)
            while len(self._plans) > PLANS:
                self._plans.popitem(last=False)


def reason_against(images: Tensor) -> str | None:
    """Say why packed layers cannot read a tensor: they take addresses, past what records and transforms operators."""
    proxies = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY)  # of make_fx and torch.export
    if torch.jit.is_tracing() or proxies is not None:
        return "tensors that are traced"
    if torch._C._functorch.is_functorch_wrapped_tensor(images):
        return "a tensor inside a transform of torch.func"
    if isinstance(images, FakeTensor):
        return "a fake tensor"
    return None


class PackedLayers:
    """Makes packed layers of ``dtype``; see `segnext.deployment.parts.Layers`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def stem(self, weights: FoldedConv) -> Layer:
        # The image's few channels are read in float32, also in a bfloat16 network.
        return packed.PackedConv2d(weights.weight, weights.bias, torch.float32, 2, 1, activation="gelu")

    def halving(self, weights: FoldedConv) -> Layer:
        return packed.PackedConv2d(weights.weight, weights.bias, self.dtype, stride=2, padding=1)

    def pointwise(self, weights: FoldedConv, act: str = "none") -> Layer:
        return packed.PackedConv2d(weights.weight, weights.bias, self.dtype, activation=act)

    def attention(self, weights: FoldedAttention) -> Layer:
        return packed.PackedMscaBlock(arguments(self.placed(weights)))

    def feed_forward(self, weights: FoldedFeedForward) -> Layer:
        return packed.PackedConvFfn(arguments(self.placed(weights)))

    def channel_norm(self, weights: FoldedNorm) -> Layer:
        w = weights
        return lambda x, out: packed.channel_norm(x, w.weight, w.bias, NORM_EPS, out)

    def group_norm(self, weights: FoldedNorm, groups: int) -> Layer:
        w = weights

        def layer(x: Tensor, out: Tensor, residual: Tensor | None = None) -> Tensor:
            return packed.group_norm_act(x, groups, w.weight, w.bias, NORM_EPS, residual, out)

        return layer

    def resize_sum(self, align_corners: bool = False) -> Layer:
        def layer(levels: Sequence[Tensor], out: Tensor) -> Tensor:
            if align_corners:  # no packed kernel does this
                return out.copy_(resize_sum(levels[0], levels[1:], align_corners))
            return packed.resize_sum(levels[0], levels[1:], out)

        return layer

    def nmf(self, bases: Tensor, projection: Tensor, steps: int) -> Layer:
        matrix = projection.flatten(1)
        return lambda x, out: packed.nmf2d(x, bases, steps, matrix, out)

    def logits(self, weights: FoldedConv) -> Layer:
        classes, conv = len(weights.weight), self.pointwise(weights)

        def layer(x: Tensor) -> Tensor:
            shape = (x.shape[0], classes, *x.shape[2:])
            out = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
            return conv(x, out)

        return layer

    def placed(self, part: Part, dtype: torch.dtype | None = None) -> Part:
        return mapped(part, lambda tensor: tensor.to(dtype or self.dtype))

    def workspace(self, x: Tensor) -> Tensor:
        return x.new_empty(packed.workspace_elements(x.shape))
