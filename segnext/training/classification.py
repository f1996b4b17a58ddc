"""Trains an encoder as an image classifier, as DeiT (arXiv 2012.12877) and VAN are: the pretraining of SegNeXt.

Steps, checkpoints, log and averaged weights are those of `segnext.training.run`; batches, loss, learning rate and
evaluation are here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from segnext.data.batches import Batch
from segnext.data.classification import ClassFolders, ClassifiedImages
from segnext.data.classification_batches import ClassificationBatches
from segnext.data.classification_views import ClassAugmentation
from segnext.data.mixing import Mixing
from segnext.data.rand_augment import RandAugment
from segnext.evaluation.classification import Accuracy, evaluate_classifier, rgb_preprocessing
from segnext.evaluation.together import AfterImages
from segnext.models import MSCAN, SegNeXt
from segnext.ranks import Ranks
from segnext.training.checkpoint import TrainingState
from segnext.training.classifier_settings import ClassifierSettings
from segnext.training.log import CLASSIFICATION, Measured
from segnext.training.loop import train_task
from segnext.training.optimiser import learning_rate_factor
from segnext.training.settings import Reporting, Schedule
from segnext.training.step import StepGradients
from segnext.training.task import Task

# Fractions of the peak learning rate: 1e-6 and 1e-5 of 1e-3 in the published recipes.
FIRST_FACTOR, LAST_FACTOR = 1e-3, 1e-2
NO_LABEL = -1  # no image is ignored


def train_classifier(
    model: MSCAN,
    data: ClassFolders,
    output: str | Path,
    settings: ClassifierSettings,
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Accuracy | None:
    """Train an encoder on the `train` split and write the averaged weights to `output`/final.safetensors.

    The folder, the signals and what a resumed run is are those of `segnext.training.loop.train`.

    Args:
        model: an encoder with a head of `len(data.classes)` classes.
        data: class folders; its `val` split, if it has one, is evaluated.
        output: the run's folder.
        settings: they determine the result.
        reporting: it does not change the result.
        device: the device to train on.
        resume: go on from the folder's checkpoint.
        overwrite: replace a run that lies in the folder.
        console: prints the progress; by default on the terminal.

    Returns:
        The final evaluation; None without a `val` split.

    Raises:
        ValueError: data, settings and model do not fit together.
        OSError, Diverged: as `train`.
    """
    return train_task(
        ClassificationTask(model, data, settings),
        output,
        reporting,
        device=device,
        resume=resume,
        overwrite=overwrite,
        console=console,
    )


class ClassificationTask(Task[ClassifiedImages, Accuracy]):
    """Trains an `MSCAN` with a head on class folders.

    Args:
        model: an encoder with a head of `len(data.classes)` classes.
        data: class folders.
        settings: they determine the result.

    Raises:
        TypeError, ValueError: as `Task`; the model has no head, or takes other channels than those of RGB.
    """

    network: ClassVar[type[SegNeXt | MSCAN]] = MSCAN
    measured: ClassVar[Measured] = CLASSIFICATION
    model: MSCAN
    data: ClassFolders
    settings: ClassifierSettings

    def __init__(self, model: MSCAN, data: ClassFolders, settings: ClassifierSettings) -> None:
        if isinstance(model, MSCAN) and model.head is None:
            raise ValueError(
                f"train: model must have a head of {len(data.classes)} classes, got none; leave out features_only"
            )
        super().__init__(model, data, settings)
        self.preprocessing = rgb_preprocessing("train", model)

    def names(self) -> dict[str, Any]:
        """Return what the final weights say about the classes."""
        return {"classes": list(self.data.classes)}

    def checked(self, console: Console, skips: bool) -> Tensor | None:
        """Check nothing: a million images take hours to decode, and a damaged one stops the run with its name."""
        return None

    def batches(self, ranks: Ranks) -> ClassificationBatches:
        """Return this process's share of the batches of the training split."""
        return training_batches(self.data.open("train"), len(self.data.classes), self.settings, ranks)

    def validation_set(self) -> ClassifiedImages | None:
        """Return the `val` split; None without one."""
        return self.data.open("val") if "val" in self.data.splits else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Group the parameters as timm does."""
        return decay_groups(self.model, self.settings.lr, self.settings.weight_decay)

    def factor(self, step: int) -> float:
        """Return the fraction of the learning rate at a step."""
        settings = self.settings
        return classifier_factor(step, settings.steps, settings.warmup, settings.schedule)

    def gradients(self, state: TrainingState, ranks: Ranks) -> ClassifierGradients:
        """Return what computes the gradients of a step."""
        return ClassifierGradients(state, self.settings, self.preprocessing, NO_LABEL, ranks)

    def evaluated(
        self, state: TrainingState, images: ClassifiedImages, after_images: AfterImages
    ) -> Accuracy:
        """Evaluate the averaged weights on images of the `val` split; `after_images` may raise."""

        return evaluate_classifier(
            state.average.model,
            images,
            device=state.device,
            dtype=self.autocast,
            preprocessing=self.preprocessing,
            side=self.settings.crop,
            after_batch=after_images,
        )


class ClassifierGradients(StepGradients):
    """Computes the gradients of a classifier's steps, whose labels are probabilities (N, K)."""

    def weight(self, batch: Batch) -> float:
        """Return the number of labels in the whole batch; all count alike."""
        (weight,) = self.ranks.sums(float(batch.labels.numel()))
        return weight

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        dtype = getattr(torch, self.settings.dtype)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            logits = self.state.model(images)
        return soft_cross_entropy(logits, labels)


def training_batches(
    images: ClassifiedImages, num_classes: int, settings: ClassifierSettings, ranks: Ranks
) -> ClassificationBatches:
    """Return this process's share of the batches of a run."""
    views = settings.views
    augmentation = ClassAugmentation(
        settings.crop,
        settings.scale,
        flip=settings.flip,
        rand_augment=RandAugment(views.rand_augment) if views.rand_augment else None,
        erase=views.erase,
    )
    return ClassificationBatches(
        images,
        num_classes,
        augmentation,
        Mixing(views.mixup, views.cutmix),
        settings.batch_size,
        settings.seed,
        repeats=views.repeats,
        smoothing=settings.label_smoothing,
        rank=ranks.rank,
        ranks=ranks.count,
    )


def decay_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Group parameters as timm does: vectors (norms, biases, layer scales) have no weight decay.

    Args:
        model: any model.
        lr: learning rate.
        weight_decay: of the matrices and convolutions.

    Returns:
        One or two groups for `torch.optim.AdamW`, with the `base_lr` that `set_learning_rate` scales.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = (
        ([parameter for parameter in parameters if parameter.ndim > 1], weight_decay),
        ([parameter for parameter in parameters if parameter.ndim <= 1], 0.0),
    )
    return [
        {"params": group, "lr": lr, "base_lr": lr, "weight_decay": decay} for group, decay in groups if group
    ]


def classifier_factor(step: int, steps: int, warmup: int, schedule: Schedule) -> float:
    """Return the fraction of the learning rate at `step` (from 0) of `steps`.

    It rises linearly from a thousandth to 1 in `warmup` steps, and goes on where a fall to a hundredth that began at
    step 0 has got to, as timm's schedule does.
    """
    if step < warmup:
        return FIRST_FACTOR + (1 - FIRST_FACTOR) * step / warmup
    return LAST_FACTOR + (1 - LAST_FACTOR) * learning_rate_factor(step, steps, 0, schedule)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (N, K) and probabilities (N, K), in float32."""
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(1).mean()
