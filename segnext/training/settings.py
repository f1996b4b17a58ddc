"""The settings that determine a run's result, and those that may change between its sessions.

Nothing heavy is imported here: `segnext --help` reads this module.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

from segnext.one_line import shown

LARGEST_CROP = 8192  # a batch of two takes 200 GB in SegNeXt-T

Schedule = Literal["linear", "cosine"]
Reduction = Literal["mean", "mean_all"]
DType = Literal["float32", "bfloat16", "float16"]
OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class TrainSettings:
    """The settings that determine a run's result. The defaults suit a small data set from scratch.

    A field's text is also the help of its option in `segnext train`, which is made from this class.

    Raises:
        ValueError: a value is of another type or out of range (scale and ema are checked where they are used).
    """

    steps: Annotated[int, "Optimiser steps."] = 4800
    batch_size: Annotated[int, "Images per step, over all processes of torchrun."] = 8
    accumulate: Annotated[
        int,
        "Cut each process's share of a step's images into this many parts, one after another (less memory).",
    ] = 1
    crop: Annotated[int, "Side of the square training crops, up to 8192 pixels."] = 224
    scale: Annotated[tuple[float, float], "Range of the random resize, relative to each image."] = (0.5, 1.5)
    flip: Annotated[bool, "Mirror each crop with probability 1/2."] = True
    distort: Annotated[bool, "Vary brightness, contrast, saturation and hue."] = True
    lr: Annotated[float, "Peak learning rate of AdamW (official, pretrained: 6e-5)."] = 1e-3
    head_lr_multiplier: Annotated[
        float, "Learning rate of the decoder, as a multiple of the backbone's (official, pretrained: 10)."
    ] = 1.0
    weight_decay: Annotated[float, "For all parameters but those whose official name has 'norm'."] = 0.01
    warmup: Annotated[int, "Steps of linear warm-up (official: 1500)."] = 100
    schedule: Annotated[
        Schedule, "How the learning rate falls to 0 (official 'poly' with power 1: linear)."
    ] = "linear"
    clip: Annotated[float, "Largest gradient norm; 0: no limit."] = 5.0
    ema: Annotated[float, "Decay of the averaged weights, which are evaluated and saved; 0: none."] = 0.999
    # 1 is the median frequency balancing of Eigen and Fergus (arXiv 1411.4734)
    balance: Annotated[
        float, "Weigh rare classes higher: (median frequency / frequency)^BALANCE, 0..1; 0: all alike."
    ] = 0.0
    label_smoothing: Annotated[float, "Label smoothing of the cross-entropy, 0..1."] = 0.0
    reduction: Annotated[
        Reduction, "mean: loss over labelled pixels; mean_all (official): over all, ignored ones as 0."
    ] = "mean"
    dtype: Annotated[DType, "bfloat16, float16 (with a scaled loss): autocast; weights stay float32."] = (
        "float32"
    )
    patience: Annotated[
        int, "End after this many evaluations without a better mIoU (imagenet: top-1); 0: never."
    ] = 0
    sync_bn: Annotated[
        bool, "Batch-norm statistics over the GPUs of all processes; else each has its own."
    ] = False
    seed: Annotated[int, "Seed of initial weights, order, augmentation and dropout."] = 0

    def __post_init__(self) -> None:
        make_plain(self)
        for name, valid, expected in (
            ("steps", self.steps >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("accumulate", self.accumulate >= 1, "at least 1"),
            ("crop", 1 <= self.crop <= LARGEST_CROP, f"1 to {LARGEST_CROP} pixels"),
            # Batch norm needs two values per channel, and the last stage sees a 32nd of the crop.
            ("batch_size", self.batch_size > 1 or self.crop > 32, "at least 2 for crops of up to 32 pixels"),
            ("lr", 0 < self.lr < math.inf, "above 0"),
            ("head_lr_multiplier", 0 < self.head_lr_multiplier < math.inf, "above 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("warmup", 0 <= self.warmup < self.steps, f"0 or more and less than steps ({self.steps})"),
            ("schedule", self.schedule in get_args(Schedule), " or ".join(get_args(Schedule))),
            ("clip", self.clip >= 0, "0 (no limit) or more"),
            ("balance", 0 <= self.balance <= 1, "in 0..1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in 0..1 (1 excluded)"),
            ("reduction", self.reduction in get_args(Reduction), " or ".join(get_args(Reduction))),
            ("dtype", self.dtype in get_args(DType), " or ".join(get_args(DType))),
            ("patience", self.patience >= 0, "0 (never) or more"),
            ("seed", 0 <= self.seed < 1 << 64, "0 or more and less than 2^64"),
        ):
            if not valid:
                raise ValueError(f"train: {name} must be {expected}, got {getattr(self, name)}")

    def as_json(self) -> dict[str, Any]:
        """Return the settings in the form in which JSON gives them back."""
        return {**asdict(self), "scale": list(self.scale)}


@dataclass(frozen=True)
class Reporting:
    """Settings that may change between sessions of one run: when to evaluate, save and log, how fast to load.

    A field's text is also the help of its option in `segnext train`.

    Raises:
        ValueError: a value is of another type or out of range.
    """

    eval_every: Annotated[int, "Steps between evaluations on val; 0: only at the end."] = 0
    checkpoint_every: Annotated[int, "Steps between checkpoints; 0: only at the end."] = 200
    log_every: Annotated[int, "Steps between rows of results.csv."] = 50
    workers: Annotated[int, "Threads that prepare batches, 0: none; any number gives the same batches."] = 1
    on_error: Annotated[
        OnError, "skip: the next image takes the place of one that cannot be read; skipped.txt lists them."
    ] = "stop"
    tensorboard: Annotated[bool, "Write event files for TensorBoard too (extra: tensorboard)."] = False

    def __post_init__(self) -> None:
        make_plain(self)
        for name, least in (("eval_every", 0), ("checkpoint_every", 0), ("log_every", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"train: {name} must be at least {least}, got {getattr(self, name)}")
        if self.on_error not in get_args(OnError):
            raise ValueError(f"train: on_error must be {' or '.join(get_args(OnError))}, got {self.on_error}")


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _number(value: Any) -> float:
    if isinstance(value, bool | str):
        raise TypeError
    return value if isinstance(value, int) else float(value)


def _flag(value: Any) -> bool:
    if isinstance(value, str) or value not in (True, False):
        raise TypeError
    return bool(value)


def _pair(value: Any) -> tuple[float, float]:
    low, high = value
    return _number(low), _number(high)


_KINDS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    bool: (_flag, "True or False"),
    tuple[float, float]: (_pair, "two numbers"),
}


def make_plain(settings: Any) -> None:
    """Make plain numbers of those of NumPy and PyTorch, which a checkpoint's JSON could not hold, or refuse a value."""
    for name, hint in get_type_hints(type(settings)).items():
        if hint not in _KINDS:
            continue
        convert, expected = _KINDS[hint]
        value = getattr(settings, name)
        try:
            object.__setattr__(settings, name, convert(value))
        except (TypeError, ValueError, RuntimeError):  # whatever tensors and arrays raise
            given = repr(value) if isinstance(value, str) else shown(value)
            raise ValueError(f"train: {name} must be {expected}, got {given}") from None
