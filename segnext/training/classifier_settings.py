"""The settings that only the training of a classifier has, beside those of `TrainSettings`.

Nothing heavy is imported here: `segnext --help` reads this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from segnext.training.settings import TrainSettings, make_plain

UNUSED = ("distort", "head_lr_multiplier", "balance", "reduction")
"""Fields of `TrainSettings` that mean nothing to a classifier."""


@dataclass(frozen=True)
class ViewSettings:
    """How the views of images are drawn and mixed. The defaults are those of DeiT (arXiv 2012.12877, table 9).

    A field's text is also the help of its option in `segnext train`, which is made from this class.

    Raises:
        ValueError: a value is of another type or out of range.
    """

    rand_augment: Annotated[float, "imagenet: strength of RandAugment, 0..10; 0: none."] = 9.0
    erase: Annotated[float, "imagenet: probability that a rectangle becomes noise."] = 0.25
    mixup: Annotated[float, "imagenet: parameter of mixup; 0: none."] = 0.8
    cutmix: Annotated[float, "imagenet: parameter of cutmix, used for every other batch; 0: none."] = 1.0
    repeats: Annotated[int, "imagenet: views of each image in a row (repeated augmentation)."] = 3

    def __post_init__(self) -> None:
        make_plain(self)
        for name, valid, expected in (
            ("rand_augment", 0 <= self.rand_augment <= 10, "in 0..10"),
            ("erase", 0 <= self.erase <= 1, "in 0..1"),
            ("mixup", 0 <= self.mixup <= 100, "in 0..100"),
            ("cutmix", 0 <= self.cutmix <= 100, "in 0..100"),
            ("repeats", self.repeats >= 1, "at least 1"),
        ):
            if not valid:
                raise ValueError(f"train: {name} must be {expected}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ClassifierSettings(TrainSettings):
    """The settings that determine a classifier's result; `scale` is the range of the shares of an image's area.

    The published learning rates begin at a thousandth of the peak and end at a hundredth.
    """

    views: ViewSettings = ViewSettings()

    def as_json(self) -> dict[str, Any]:
        """Return the settings that mean something, all on one level, in the form in which JSON gives them back."""
        plain = super().as_json()
        return {
            name: value for name, value in plain.items() if name not in UNUSED and name != "views"
        } | plain["views"]
