"""The state of a run before its first step: the model where it is trained, its average, its optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from segnext.data.classification import ClassFolders
from segnext.data.config import DataConfig
from segnext.data.preprocessing import Preprocessing
from segnext.models import MSCAN, SegNeXt
from segnext.ranks import Ranks
from segnext.training.checkpoint import TrainingState
from segnext.training.determining import determining
from segnext.training.ema import AveragedModel
from segnext.training.settings import TrainSettings
from segnext.training.statistics import synchronise_statistics


def starting_state(
    model: SegNeXt | MSCAN,
    data: DataConfig | ClassFolders,
    settings: TrainSettings,
    preprocessing: Preprocessing,
    images: int,
    groups: Callable[[], list[dict[str, Any]]],
    device: torch.device,
    ranks: Ranks,
) -> tuple[TrainingState, dict[str, Any]]:
    """Seed torch, put the model on its device in training mode, and make what is trained with it.

    Args:
        model: with its first weights.
        data: the data set.
        settings: of the run.
        preprocessing: makes the network's input.
        images: number of training images.
        groups: makes the parameter groups of AdamW, once the model is on its device.
        device: where this process computes.
        ranks: the processes.

    Returns:
        The state, and what the final weights will say about the run.
    """
    torch.manual_seed(settings.seed)
    if settings.sync_bn:
        synchronise_statistics(model, device)
    model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(groups(), betas=(0.9, 0.999), fused=True)
    recipe = settings.as_json() | {
        "data": data.name,
        "images": images,
        "architecture": model.config.architecture,
        "ranks": ranks.count,
    }
    all_settings = recipe | {"preprocessing": preprocessing.as_json()} | determining(model, data)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.dtype == "float16")
    average = AveragedModel(model, settings.ema)
    return TrainingState(model, average, optimiser, all_settings, scaler=scaler), recipe
