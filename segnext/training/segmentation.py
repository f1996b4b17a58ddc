"""The training of a segmentation: crops with their labels, a cross-entropy over pixels, and the mIoU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from rich.console import Console
from torch import Tensor

from segnext.data.batches import TrainingBatches
from segnext.data.check import require_sound
from segnext.data.config import DataConfig
from segnext.data.dataset import SegmentationFolder
from segnext.data.preprocessing import Preprocessing
from segnext.data.transforms import Augmentation
from segnext.evaluation.evaluate import Evaluation, evaluate
from segnext.evaluation.together import AfterImages
from segnext.models import MSCAN, SegNeXt
from segnext.predict.inference import Inference
from segnext.ranks import Ranks
from segnext.training.checkpoint import TrainingState
from segnext.training.log import SEGMENTATION, Measured
from segnext.training.optimiser import learning_rate_factor, parameter_groups
from segnext.training.samples import Sample, Samples, draw_samples
from segnext.training.settings import TrainSettings
from segnext.training.step import StepGradients
from segnext.training.task import Task


class SegmentationTask(Task[SegmentationFolder, Evaluation]):
    """Trains a `SegNeXt` on images with label maps.

    The preprocessing has mean and std of the weights that the run starts from, and the image size of the data set; the
    range of values is the data set's, else the weights'.

    Args:
        model: with fresh or pretrained weights.
        data: the data set.
        settings: they determine the result.
        inference: how images are evaluated.

    Raises:
        TypeError, ValueError: as `Task`; the model takes another number of channels than the data have.
    """

    network: ClassVar[type[SegNeXt | MSCAN]] = SegNeXt
    measured: ClassVar[Measured] = SEGMENTATION
    model: SegNeXt
    data: DataConfig

    def __init__(
        self, model: SegNeXt, data: DataConfig, settings: TrainSettings, inference: Inference
    ) -> None:
        super().__init__(model, data, settings)
        self.inference = inference
        self._taken: list[Sample] = []
        self.preprocessing = data.preprocessing(Preprocessing.of(model.metadata))
        channels = len(self.preprocessing.mean)
        if channels != model.config.in_channels:
            raise ValueError(
                f"train: in_channels of the model must be {channels} for {data.name}, got "
                f"{model.config.in_channels}"
            )
        self.data = replace(data, value_range=self.preprocessing.value_range, bands=self.preprocessing.bands)

    def names(self) -> dict[str, Any]:
        """Return what the final weights say about the classes."""
        return {"classes": list(self.data.classes), "palette": [list(colour) for colour in self.data.palette]}

    def checked(self, console: Console, skips: bool) -> Tensor | None:
        """Check every image and label, and return the weights that balance the classes, if they are asked for."""
        splits = [split for split in ("train", "val") if split in self.data.splits]
        reports = require_sound(self.data, splits, console, ("train",) if skips else ())
        return reports["train"].class_weights(self.settings.balance) if self.settings.balance else None

    def batches(self, ranks: Ranks) -> TrainingBatches:
        """Return this process's share of the batches of the training split."""
        settings = self.settings
        augmentation = Augmentation(
            settings.crop,
            settings.scale,
            flip=settings.flip,
            distort=settings.distort,
            ignore_index=self.data.ignore_index,
            preprocessing=self.preprocessing,
        )
        return TrainingBatches(
            self.data.open("train"),
            augmentation,
            settings.batch_size,
            settings.seed,
            rank=ranks.rank,
            ranks=ranks.count,
        )

    def validation_set(self) -> SegmentationFolder | None:
        """Return the `val` split; None without one."""
        return self.data.open("val") if "val" in self.data.splits else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Group the parameters as the official recipes do."""
        settings = self.settings
        return parameter_groups(self.model, settings.lr, settings.weight_decay, settings.head_lr_multiplier)

    def factor(self, step: int) -> float:
        """Return the fraction of the learning rate at a step."""
        settings = self.settings
        return learning_rate_factor(step, settings.steps, settings.warmup, settings.schedule)

    def gradients(self, state: TrainingState, ranks: Ranks) -> StepGradients:
        """Return what computes the gradients of a step."""
        return StepGradients(state, self.settings, self.preprocessing, self.data.ignore_index, ranks)

    def evaluated(
        self, state: TrainingState, images: SegmentationFolder, after_images: AfterImages
    ) -> Evaluation:
        """Evaluate the averaged weights on images of the `val` split; `after_images` may raise."""
        samples = Samples(images)
        evaluation = evaluate(
            state.average.model,
            images,
            device=state.device,
            dtype=self.autocast,
            inference=self.inference,
            preprocessing=self.preprocessing,
            look=samples.look,
            after_image=after_images,
        )
        self._taken = samples.taken
        return evaluation

    def samples(self) -> bytes | None:
        """Return a few images of this process's last evaluation with label and prediction, as a PNG."""
        if not self._taken:
            return None
        return draw_samples(self._taken, self.data.classes, self.data.palette, self.data.ignore_index)

    def described(self) -> dict[str, Any]:
        """Return what recipe.yaml and the final weights say beside settings, data and architecture."""
        protocol = self.inference.for_weights(self.preprocessing.short_side)
        return super().described() | {"evaluation": str(protocol)}
