"""Plans the memory of one forward pass's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segnext.deployment.parts import FoldedWeights
from segnext.models import SegNeXtConfig
from segnext.models.config import STAGES, STRIDES
from segnext.models.decoders import stages_of
from segnext_kernels import packed


@dataclass(frozen=True)
class StageMemory:
    """A stage's memory: a block's input, its attention's result, the stage's normalised result."""

    x: Tensor | None = None
    y: Tensor | None = None
    feature: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """The memory that each layer writes to; a layer whose entry is None allocates its own result."""

    stem: Tensor | None = None
    stages: tuple[StageMemory, ...] = (StageMemory(),) * STAGES
    workspace: Tensor | None = None
    decoder: Any = None


def plan_memory(
    weights: FoldedWeights, config: SegNeXtConfig, dtype: torch.dtype, batch: int, height: int, width: int
) -> Plan:
    """Return a plan for images (batch, C, height, width): three regions that the layers reuse, and the features.

    The first region holds a block's input; the second the stem's result, then what attention gives to the feed-forward
    network; the third the attention's workspace. The decoder uses them after the encoder.
    """
    sizes = [(-(-height // s), -(-width // s)) for s in (2, *STRIDES)]
    stem = (batch, len(weights.stem.weight), *sizes[0])
    shapes = [
        (batch, len(stage.entry.weight), *size) for stage, size in zip(weights.stages, sizes[1:], strict=True)
    ]
    stages_read = stages_of(config)
    read = [shapes[stage] for stage in stages_read]
    decoder = weights.decoder.elements(read)
    most = max(decoder, *map(count, shapes))
    work = max(packed.workspace_elements(torch.Size(shape)) for shape in shapes)
    x, y, z = (
        torch.empty(elements, dtype=dtype, device="cpu")
        for elements in (most, max(most, count(stem)), max(work, decoder))
    )
    stages = []
    for stage, shape in enumerate(shapes):
        # A feature that only feeds the next stage stays in the second region.
        own = stage in stages_read
        feature = torch.empty(count(shape), dtype=dtype, device="cpu") if own else y
        stages.append(StageMemory(view(x, shape), view(y, shape), view(feature, shape)))
    return Plan(view(y, stem), tuple(stages), z, weights.decoder.memory(read, (x, y, z)))


def count(shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor."""
    return torch.Size(shape).numel()


def view(memory: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the beginning of a flat tensor as (N, C, H, W) in channels_last."""
    n, c, h, w = shape
    return memory[: count(shape)].view(n, h, w, c).permute(0, 3, 1, 2)
