"""The interface between LightHam and the modules for global context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from segnext.models.config import SegNeXtConfig


class Context(nn.Module, ABC):
    """A module from (N, D, H, W) to (N, D, H, W), its residual included.

    Attributes:
        attribute: name of the decoder's attribute that holds it, with which its tensors' names begin.
        official_names: pairs of a tensor's name in the official style, without ``decode_head.``, and in a decoder of
            ours; ``{rest}`` stands for any ending.
    """

    attribute: ClassVar[str]
    official_names: ClassVar[tuple[tuple[str, str], ...]]

    @classmethod
    @abstractmethod
    def from_config(cls, config: SegNeXtConfig) -> Context:
        """Make the module of a SegNeXt with this configuration."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) to (N, D, H, W)."""


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is in float64: for sums over all pixels."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a block in which products of float32 stay in float32, on the device of x."""
    kind = x.device.type
    return (
        torch.autocast(kind, enabled=False)
        if torch.amp.autocast_mode.is_autocast_available(kind)
        else nullcontext()
    )
