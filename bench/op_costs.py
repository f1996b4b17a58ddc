"""Counts what each op of a deployed model has to compute and to move, on tensors without data.

The folded network runs on the meta device. Each of its ops is counted by its definition in plain PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from bench.results import OpCost
from segnext.deployment.folding import fold
from segnext.deployment.modules import FoldedNetwork
from segnext.models import SegNeXt
from segnext_kernels import definitions, upsample_argmax


def op_costs(model: SegNeXt, shape: torch.Size, dtype: torch.dtype) -> list[OpCost]:
    """Return the costs of all ops from image to mask, in their order.

    Args:
        model: a SegNeXt on any device.
        shape: (N, C, H, W) of the images.
        dtype: of activations and weights, see `segnext.deploy`.
    """
    network = FoldedNetwork(fold(model), model.config, dtype, torch.device("meta"))
    with torch.no_grad(), _Counter() as counter:
        logits = network.logits(torch.empty(shape, device="meta"))
        upsample_argmax(logits, (shape[2], shape[3]), model.config.align_corners)
    return counter.costs


class _Counter(TorchDispatchMode):
    """Notes the cost of each op of `segnext_kernels` that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[OpCost] = []
        self._definitions = definitions()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._definitions:
            return func(*args, **kwargs)
        taps = [0]

        def convolution(x: Any, weight: Any, *rest: Any, out_shape: Any, **_: Any) -> int:
            transposed, groups = rest[4], rest[6]
            flops = conv_flop_count(x, weight, out_shape, transposed)
            taps[0] += flops if groups > 1 else 0
            return flops

        mapping = {torch.ops.aten.convolution: convolution}
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            out = self._definitions[func](*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        name = func.overloadpacket.__name__
        spared = _spared(*args[:4]) if name == "nmf2d_projected" else 0
        shapes = dict.fromkeys("x".join(map(str, t.shape[1:])) for t in (tensors[0], results[0]))
        self.costs.append(
            OpCost(
                op=name,
                shapes=" to ".join(shapes),
                products=counter.get_total_flops() - taps[0] - spared,
                taps=taps[0],
                bytes_moved=sum(t.numel() * t.element_size() for t in (*tensors, *results)),
                half=all(t.element_size() == 2 for t in tensors),
            )
        )
        return out


def _spared(x: Tensor, bases: Tensor, steps: int, projection: Tensor) -> int:
    """Return the FLOPs that the definition of `nmf2d_projected` computes and no implementation needs to.

    The first update of coef uses the product of the softmax again: D N R multiply-adds. Of the result, which has rank
    R, only the bases need be projected: P R (D + N) multiply-adds instead of D N (R + P).
    """
    (batch, d, n), r, p = x.shape, bases.shape[2], projection.shape[0]
    return 2 * batch * (d * n * r + max(0, d * n * (r + p) - p * r * (d + n)))
