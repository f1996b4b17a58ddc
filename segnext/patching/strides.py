"""Keeps BatchNorm away from strides with which PyTorch's backward on a CPU gives wrong gradients.

An axis of size 1 may have any stride. With one image, a view of tokens or a sum of tensors of both memory formats
has channels innermost, and a stride of the first axis that no new tensor would have. Where either the input or the
incoming gradient is of that kind and the other one is contiguous, `native_batch_norm_backward` reads the one in the
order of the other (PyTorch 2.13; a test shows it). SegNeXt's own code, whose stem returns tokens, so trains with wrong
gradients where each process has one image on a CPU; patched, it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segnext.patching.plan import Plan, are_images, sample
from segnext.patching.swap import is_patched, original_class, put, take_out
from segnext_kernels.memory_format import as_channels_last, is_channels_last


def in_channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) in channels_last, with the strides that a new tensor would have; so has its gradient."""
    x = as_channels_last(x)
    n, _, height, width = x.shape
    if n > 1 and height > 1 and width > 1:
        return x
    return x.movedim(1, -1).flatten(0, 2).unflatten(0, (n, height, width)).movedim(-1, 1)


@contextmanager
def all_batch_norms(model: nn.Module) -> Iterator[None]:
    """Let every BatchNorm get what its backward takes, for the time of a ``with`` block."""
    changed = []
    for module in model.modules():
        if not is_patched(module):
            for plan in BatchNorm.candidates(module):
                put(module, plan)
                changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            take_out(module)


@dataclass(frozen=True)
class BatchNorm(Plan):
    """A BatchNorm outside of the other plans, which gets images and gradients of one memory format."""

    what: ClassVar[str] = "the strides that its backward takes"
    ops: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ("eps", "momentum", "affine", "track_running_stats")
    is_core: ClassVar[bool] = False
    channels: int

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        return [cls(module.num_features)] if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) else []

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        return (sample(generator, self.channels),)

    def takes(self, module: Any, *args: Any) -> bool:
        return are_images(*args)

    def run(self, module: Any, *args: Any) -> Tensor:
        (x,) = args
        own = original_class(module).forward
        if is_channels_last(x):
            return in_channels_last(own(module, in_channels_last(x)))
        return (
            own(module, x.contiguous()).flatten().unflatten(0, x.shape)
        )  # the gradient becomes contiguous too
