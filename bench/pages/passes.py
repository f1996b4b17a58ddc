"""Counts the passes over memory of an op's definition, as plain PyTorch runs it, on tensors without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# aten's names, as people say them
_NAMES = {
    "native_layer_norm": "layer norm",
    "native_group_norm": "group norm",
    "upsample_bilinear2d": "bilinear resize",
    "_softmax": "softmax",
    "_log_softmax": "log-softmax",
    "nll_loss2d_forward": "negative log-likelihood",
    "_to_copy": "conversion",
    "bmm": "matrix product",
    "mm": "matrix product",
    "baddbmm": "matrix product",
    "addmm": "matrix product",
    "clone": "copy",
    "mul": "multiply",
    "div": "divide",
}


@dataclass(frozen=True)
class Pass:
    """One operator that runs over memory.

    Attributes:
        name: readable.
        read, written: bytes of the tensors that it takes and gives.
        count: how many of its kind follow each other.
    """

    name: str
    read: int
    written: int
    count: int = 1


def passes(definition: Callable[..., Any], args: Sequence[Any]) -> list[Pass]:
    """Return what a definition does, in order; equal neighbours are one entry. Views move nothing."""
    without_data = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), list(args))
    with torch.no_grad(), _Recorder() as recorder:
        definition(*without_data)
    found = recorder.passes
    if (
        len(found) > 2 and found[-1].name == "copy"
    ):  # into x's memory format, which a model in PyTorch need not do
        found.pop()
    return _joined(found)


def boundary(definition: Callable[..., Any], args: Sequence[Any]) -> tuple[int, int]:
    """Return the bytes of an op's arguments and of its results: what it cannot but read and write once."""
    without_data = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), list(args))
    with torch.no_grad():
        results = definition(*without_data)
    return _bytes(without_data), _bytes(results)


def _joined(found: Sequence[Pass]) -> list[Pass]:
    """Join neighbours of one name; a loop of several steps becomes one round of sums by name."""
    joined = [_sum(list(same)) for _, same in groupby(found, key=lambda one: one.name)]
    if len(joined) <= 14:
        return joined
    by_name: dict[str, list[Pass]] = {}
    for one in joined:
        by_name.setdefault(one.name, []).append(one)
    return [_sum(same) for same in by_name.values()]


def _sum(same: Sequence[Pass]) -> Pass:
    return Pass(
        same[0].name, sum(p.read for p in same), sum(p.written for p in same), sum(p.count for p in same)
    )


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.passes: list[Pass] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        aliases = [one.alias_info for one in func._schema.returns]
        is_view = any(info is not None and not info.is_write for info in aliases)
        packet = func.overloadpacket.__name__
        if not is_view and packet not in ("empty", "detach", "new_empty", "empty_like", "_unsafe_view"):
            self.passes.append(Pass(_name(packet, args), _bytes((args, kwargs)), _bytes(out)))
        return out


def _name(packet: str, args: Any) -> str:
    plain = packet.removesuffix("_")
    if plain == "convolution":
        height, width = args[1].shape[2:]
        kind = "depthwise" if args[8] > 1 else "convolution"
        return f"{kind} {height}x{width}"
    return _NAMES.get(plain, _NAMES.get(packet, plain.replace("_", " ")))


def _bytes(tree: Any) -> int:
    distinct = {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
    return sum(leaf.numel() * leaf.element_size() for leaf in distinct.values())
