"""The gradients of one step: forward, loss and backward of a batch, whole or in parts, and their clipping."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segnext.data.batches import Batch
from segnext.data.preprocessing import Preprocessing
from segnext.ranks import Ranks
from segnext.training.checkpoint import TrainingState
from segnext.training.gradients import Gradients
from segnext.training.parts import PartedGradients, labelled_weight
from segnext.training.settings import TrainSettings


class StepGradients:
    """Computes the gradients of a run's steps.

    Args:
        state: the model, which gets the gradients, its optimiser and the scaler of float16.
        settings: of the run.
        preprocessing: makes the network's input.
        ignore_index: label of pixels that do not count.
        ranks: the processes, of which each has a share of every batch.

    Attributes:
        class_weight: (K,) weights of the cross-entropy; None if all classes count alike.
        is_parted: whether a batch is computed in parts, one after another or in several processes.
    """

    def __init__(
        self,
        state: TrainingState,
        settings: TrainSettings,
        preprocessing: Preprocessing,
        ignore_index: int,
        ranks: Ranks,
    ) -> None:
        self.state, self.settings, self.preprocessing = state, settings, preprocessing
        self.ignore_index, self.ranks = ignore_index, ranks
        self.class_weight: Tensor | None = None
        self.is_parted = ranks.count * settings.accumulate > 1
        self._whole = Gradients(state.model, self._loss, state.scaler.scale)
        self._parted = PartedGradients(state.model, self._whole, settings.accumulate, ranks, settings.seed)

    def weight(self, batch: Batch) -> float:
        """Return how much the labelled pixels of the whole batch count, of which `batch` is this process's share.

        A batch in one part has a mean of its own: there it is 1, or 0 without labelled pixels, which is found quickly.
        """
        if not self.is_parted:
            return float((batch.labels != self.ignore_index).any())
        (weight,) = self.ranks.sums(labelled_weight(batch.labels, self.ignore_index, self.class_weight))
        return weight

    def __call__(self, batch: Batch, weight: float) -> tuple[float, float]:
        """Leave a batch's clipped gradients in the model; return its loss and the gradient's norm before clipping.

        Args:
            batch: this process's share.
            weight: see `weight`; above 0.
        """
        device = next(self.state.model.parameters()).device
        images, labels = batch.normalised(self.preprocessing, device), batch.labels.to(device)
        if self.is_parted:
            factor = 1 / (self.ranks.count * self.settings.accumulate)
            if self.settings.reduction == "mean":
                factor = batch.labels.numel() / self.settings.accumulate / weight
            loss = self._parted(images, labels, self.state.step, factor)
        else:
            loss = self._whole(images, labels)
        if self.state.scaler.is_enabled():
            self.state.scaler.unscale_(self.state.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.state.model.parameters(), self.settings.clip or math.inf)
        # Both are read at once, since this is the only place that waits for the device.
        loss_value, norm_value = torch.stack((loss.float(), norm.float())).tolist()
        return loss_value, norm_value

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        dtype = getattr(torch, self.settings.dtype)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss: Tensor = self.state.model(  # not model.loss: wrappers see forward alone
                images,
                labels,
                ignore_index=self.ignore_index,
                class_weight=self.class_weight,
                label_smoothing=self.settings.label_smoothing,
                reduction="mean_all" if self.is_parted else self.settings.reduction,
            )
        return loss
