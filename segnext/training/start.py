"""What a run has before its first step: the model where it is trained, its optimiser, batches and gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

import torch
from rich.console import Console

from segnext.data.batches import Batches
from segnext.evaluation.together import Images
from segnext.ranks import Ranks
from segnext.training.checkpoint import TrainingState
from segnext.training.determining import determining
from segnext.training.ema import AveragedModel
from segnext.training.patience import expect_evaluations
from segnext.training.settings import Reporting
from segnext.training.statistics import synchronise_statistics
from segnext.training.step import StepGradients
from segnext.training.task import Task


@dataclass(frozen=True)
class Start(Generic[Images]):
    """What a run starts with.

    Attributes:
        state: model, optimiser and progress.
        batches: batches of the training split.
        validation_set: the `val` split; None without one.
        gradients: computes those of a step.
        recipe: what the final weights will say about the run.
    """

    state: TrainingState
    batches: Batches
    validation_set: Images | None
    gradients: StepGradients
    recipe: dict[str, Any]

    @classmethod
    def of(
        cls, task: Task[Images, Any], reporting: Reporting, device: torch.device, ranks: Ranks
    ) -> Start[Images]:
        """Prepare everything up to the first step; nothing is written yet."""
        batches, validation_set = task.batches(ranks), task.validation_set()
        batches.skips = reporting.on_error == "skip"
        expect_evaluations(task.settings, reporting, validation_set is not None)
        state, recipe = starting_state(task, batches.size, device, ranks)
        if task.settings.patience:  # then the evaluations decide when the run ends
            state.settings["eval_every"] = reporting.eval_every
        return cls(state, batches, validation_set, task.gradients(state, ranks), recipe)

    def check(self, task: Task[Images, Any], ranks: Ranks, console: Console) -> None:
        """Check the data in the first process, and let rare classes count more in the loss if the settings say so."""
        weight = ranks.of_first(lambda: task.checked(console, self.batches.skips))
        self.gradients.class_weight = None if weight is None else weight.to(self.state.device)


def starting_state(
    task: Task[Any, Any], images: int, device: torch.device, ranks: Ranks
) -> tuple[TrainingState, dict[str, Any]]:
    """Seed torch, put the model on its device in training mode, and make what is trained with it.

    Args:
        task: what is trained.
        images: number of training images.
        device: where this process computes.
        ranks: the processes.

    Returns:
        The state, and what the final weights will say about the run.
    """
    model, settings = task.model, task.settings
    torch.manual_seed(settings.seed)
    if settings.sync_bn:
        synchronise_statistics(model, device)
    model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(task.parameter_groups(), betas=(0.9, 0.999), fused=True)
    recipe = settings.as_json() | {
        "data": task.data.name,
        "images": images,
        "architecture": model.config.architecture,
        "ranks": ranks.count,
    }
    reading = {"preprocessing": task.preprocessing.as_json()} | determining(model, task.data)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.dtype == "float16")
    state = TrainingState(
        model, AveragedModel(model, settings.ema), optimiser, recipe | reading, scaler=scaler
    )
    return state, recipe | task.described()
