"""What is trained: a model on a data set, with the loss, the schedule and the evaluation that belong to it.

`segnext.training.segmentation` and `segnext.training.classification` have the two tasks, and `segnext.training.run`
steps through either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic

import torch
from rich.console import Console
from torch import Tensor

from segnext.data.batches import Batches
from segnext.data.classification import ClassFolders
from segnext.data.config import DataConfig
from segnext.data.preprocessing import Preprocessing
from segnext.evaluation.measures import Result
from segnext.evaluation.together import AfterImages, Images
from segnext.models import MSCAN, SegNeXt
from segnext.ranks import Ranks
from segnext.training.checkpoint import TrainingState
from segnext.training.log import Measured
from segnext.training.settings import TrainSettings
from segnext.training.step import StepGradients
from segnext.training.trainable import expect_trainable
from segnext.weights.configuration import as_json


class Task(ABC, Generic[Images, Result]):
    """A model, data and settings that fit together, and how one is trained with the others.

    It holds nothing that a step changes but the model itself, and what the last evaluation saw. `Images` is a split of
    its data set, and `Result` what an evaluation gives.

    Args:
        model: a model with fresh or pretrained weights and `len(data.classes)` classes.
        data: the data set.
        settings: they determine the result.

    Attributes:
        network: the class of the models.
        measured: what an evaluation measures.
        preprocessing: makes the network's input; a subclass sets it.

    Raises:
        TypeError: the model is of another class, or its weights are not float32.
        ValueError: the model cannot be trained, or has another number of classes than the data.
    """

    network: ClassVar[type[SegNeXt | MSCAN]]
    measured: ClassVar[Measured]
    model: SegNeXt | MSCAN
    data: DataConfig | ClassFolders
    settings: TrainSettings
    preprocessing: Preprocessing

    def __init__(
        self, model: SegNeXt | MSCAN, data: DataConfig | ClassFolders, settings: TrainSettings
    ) -> None:
        expect_trainable(model, self.network)
        if model.config.num_classes != len(data.classes):
            raise ValueError(
                f"train: num_classes of the model must be {len(data.classes)} for {data.name}, "
                f"got {model.config.num_classes}"
            )
        self.model, self.data, self.settings = model, data, settings
        # Raises what saving the final weights would.
        as_json(self.names(), model.config.num_classes, model.config.in_channels, "save")

    @property
    def autocast(self) -> torch.dtype:
        """The dtype in which the model computes."""
        dtype: torch.dtype = getattr(torch, self.settings.dtype)
        return dtype

    @abstractmethod
    def names(self) -> dict[str, Any]:
        """Return what the final weights say about the classes."""

    @abstractmethod
    def checked(self, console: Console, skips: bool) -> Tensor | None:
        """Check the data set before the first step; return the weights of the classes in the loss, if it has any.

        Args:
            console: prints warnings.
            skips: whether training images that cannot be read are skipped, so that they are no error.

        Raises:
            ValueError: an image or a label is damaged or wrong.
        """

    @abstractmethod
    def batches(self, ranks: Ranks) -> Batches:
        """Return this process's share of the batches of the training split."""

    @abstractmethod
    def validation_set(self) -> Images | None:
        """Return the `val` split; None without one."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of AdamW, each with its `base_lr`."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """Return the fraction of the learning rate at a step."""

    @abstractmethod
    def gradients(self, state: TrainingState, ranks: Ranks) -> StepGradients:
        """Return what computes the gradients of a step."""

    @abstractmethod
    def evaluated(self, state: TrainingState, images: Images, after_images: AfterImages) -> Result:
        """Evaluate the averaged weights.

        Args:
            state: has them.
            images: the `val` split, or this process's share of it.
            after_images: called as images are evaluated; it may raise.

        Raises:
            NonFiniteError: logits are NaN or infinite.
        """

    def samples(self) -> bytes | None:
        """Return a picture of what the last evaluation of this process predicted, as a PNG; None if there is none."""
        return None

    def described(self) -> dict[str, Any]:
        """Return what recipe.yaml and the final weights say beside settings, data and architecture."""
        return {"drop_path": self.model.config.drop_path}
