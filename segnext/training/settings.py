"""What determines a run's result, and what may change between its sessions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from segnext.training.optimiser import Schedule

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainSettings:
    """What determines a run's result, with defaults for a small data set from scratch.

    Attributes:
        steps: optimiser steps.
        batch_size: images a step.
        crop: side of the square training crops, pixels.
        scale: range of the random resize, relative to the image's own size.
        flip: mirror every other crop.
        distort: vary brightness, contrast, saturation and hue.
        lr: peak learning rate of AdamW.
        head_lr_multiplier: factor on the decoder's learning rate (official 10, for pretrained backbones).
        weight_decay: of AdamW, on all parameters whose official name lacks `norm`.
        warmup: steps of linear warm-up.
        schedule: fall of the learning rate to 0, "linear" or "cosine".
        clip: largest gradient norm; 0 for no limit.
        ema: decay of the averaged weights, which are evaluated and saved; 0 for none.
        balance: exponent b of the class weights (median frequency / frequency)^b of the cross-entropy:
            0 for none, 1 for median frequency balancing (Eigen and Fergus, arXiv 1411.4734), 0.5 between.
        label_smoothing: of the cross-entropy.
        reduction: "mean" over labelled pixels, or the official "mean_all" over all.
        precision: "float32", or "bfloat16" for autocast.
        seed: of initial weights, order, augmentation and dropout.

    Raises:
        ValueError: a value is out of range (those of crop, scale and ema show where they are used).
    """

    steps: int = 4800
    batch_size: int = 8
    crop: int = 224
    scale: tuple[float, float] = (0.5, 1.5)
    flip: bool = True
    distort: bool = True
    lr: float = 1e-3
    head_lr_multiplier: float = 1.0
    weight_decay: float = 0.01
    warmup: int = 100
    schedule: Schedule = "linear"
    clip: float = 5.0
    ema: float = 0.999
    balance: float = 0.0
    label_smoothing: float = 0.0
    reduction: str = "mean"
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("steps", self.steps >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", 0 < self.lr < math.inf, "above 0"),
            ("head_lr_multiplier", 0 < self.head_lr_multiplier < math.inf, "above 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("warmup", 0 <= self.warmup < self.steps, f"0 or more and less than steps ({self.steps})"),
            ("schedule", self.schedule in ("linear", "cosine"), "linear or cosine"),
            ("clip", self.clip >= 0, "0 (no limit) or more"),
            ("balance", 0 <= self.balance <= 1, "in 0..1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in 0..1 (1 excluded)"),
            ("reduction", self.reduction in ("mean", "mean_all"), "mean or mean_all"),
            ("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS)),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not valid:
                raise ValueError(f"train: {name} must be {expected}, got {getattr(self, name)}")

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON gives them back."""
        return {**asdict(self), "scale": list(self.scale)}


@dataclass(frozen=True)
class Reporting:
    """What may change between sessions of one run: when to look, how fast to load.

    Attributes:
        eval_every: steps between evaluations on the `val` split; 0 for only at the end.
        checkpoint_every: steps between checkpoints; 0 for only at the end.
        log_every: steps between rows of results.csv.
        workers: threads that prepare batches; 0 for none.

    Raises:
        ValueError: a value is out of range.
    """

    eval_every: int = 0
    checkpoint_every: int = 200
    log_every: int = 50
    workers: int = 1

    def __post_init__(self) -> None:
        for name, least in (("eval_every", 0), ("checkpoint_every", 0), ("log_every", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"train: {name} must be at least {least}, got {getattr(self, name)}")
