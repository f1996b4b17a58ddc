"""AdamW's parameter groups as in the official recipes, and the schedule of the learning rate."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from segnext.models import dialects
from segnext.training.settings import Schedule

WARMUP_START = 1e-6  # the first fraction of the learning rate, as in the official recipes


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, head_lr_multiplier: float = 1.0
) -> list[dict[str, Any]]:
    """Group a model's parameters by the two rules of the official recipes.

    A parameter whose *official* name contains `norm` has no weight decay; one whose official name contains `head`
    has the learning rate times `head_lr_multiplier`. The official names are not ours: the stem's batch norms
    (`patch_embed1.proj.1`), the decoder's group norms (`gn`), layer scales and biases do decay.

    Args:
        model: a SegNeXt or MSCAN.
        lr: learning rate of the backbone.
        weight_decay: decoupled weight decay of AdamW.
        head_lr_multiplier: official 10, for a pretrained backbone under a new decoder; 1 fits training
            from scratch, where both are new.

    Returns:
        Up to four groups for `torch.optim.AdamW`, each with its own `lr`, `weight_decay` and `base_lr`
        (the value that `set_learning_rate` scales).
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    named = dict(model.named_parameters())
    for official, parameter in zip(dialects.to_official(named), named.values(), strict=True):
        if parameter.requires_grad:
            groups.setdefault(("norm" in official, "head" in official), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (head_lr_multiplier if is_head else 1.0),
            "base_lr": lr * (head_lr_multiplier if is_head else 1.0),
            "weight_decay": 0.0 if is_norm else weight_decay,
        }
        for (is_norm, is_head), parameters in groups.items()
    ]


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: Schedule = "linear") -> float:
    """Return the fraction of the learning rate at `step` (from 0) of `steps`: a linear warm-up times a fall to 0.

    "linear" is the official schedule ("poly" with power 1); "cosine" stays high longer and ends flatter.
    """
    progress = step / steps
    factor = 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    if step < warmup:
        factor *= WARMUP_START + (1 - WARMUP_START) * step / warmup
    return factor


def set_learning_rate(groups: list[dict[str, Any]], factor: float) -> None:
    """Set every group's `lr` to its `base_lr` times `factor`."""
    for group in groups:
        group["lr"] = group["base_lr"] * factor
