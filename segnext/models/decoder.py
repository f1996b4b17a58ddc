"""The interface between SegNeXt and its decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from segnext.models.config import SegNeXtConfig


class Decoder(nn.Module, ABC):
    """A decoder turns the features of some stages into logits; its last layer is named ``classifier``.

    Attributes:
        stages: the stages (0-3) whose features it reads, in rising order; the first one sets the logits' size. Those of
            the class are read unless the configuration has ``in_indices``, see :meth:`stages_of`.
        official_names: pairs of a tensor's name in the official code, without ``decode_head.``, and in this
            class; ``{rest}`` stands for any ending.
        sizes: the tensor and axis of a checkpoint that show a field of the configuration, by field.
    """

    stages: tuple[int, ...]
    official_names: ClassVar[tuple[tuple[str, str], ...]]
    sizes: ClassVar[Mapping[str, tuple[str, int]]]

    @classmethod
    def stages_of(cls, config: SegNeXtConfig) -> tuple[int, ...]:
        """Return the stages that a decoder of this configuration reads."""
        return cls.stages if config.in_indices is None else config.in_indices

    @classmethod
    @abstractmethod
    def from_config(cls, config: SegNeXtConfig) -> Decoder:
        """Make the decoder of a SegNeXt with this configuration."""

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of ``stages`` [(N, C_i, H_i, W_i), ...] to logits (N, K, H_0, W_0)."""
