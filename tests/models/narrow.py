"""A SegNeXt of a few channels and one block per stage, which is built and run in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from segnext.models import SegNeXt, build


def narrow(**options: Any) -> SegNeXt:
    """Return it with seeded weights, in evaluation mode; three classes, unless the options say otherwise."""
    torch.manual_seed(0)
    sizes = dict(channels=(8, 16, 24, 32), depths=(1, 1, 1, 1), decoder_channels=32, rank=4)
    model = build("segnext_t", **{"num_classes": 3, **sizes, **options}).eval()
    assert isinstance(model, SegNeXt)
    return model


def used(**fields: Any) -> SegNeXt:
    """Return a narrow model as one that has seen data: its statistics and scales are not those of the beginning."""
    model = narrow(**fields)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 45, 70, generator=torch.Generator().manual_seed(1))
