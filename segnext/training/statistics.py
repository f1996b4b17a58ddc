"""Batch-norm statistics over the GPUs of all processes."""

from __future__ import annotations

import torch
from torch import nn

from segnext.models.batch_norm import BatchNorm


def synchronise_statistics(model: nn.Module, device: torch.device) -> None:
    """Let the model's batch norms in training mode use the statistics of all processes' images.

    Frozen ones keep their own, and no process waits for another in evaluation mode.

    Raises:
        ValueError: the device is no GPU, for which alone PyTorch has this.
    """
    if device.type != "cuda":
        raise ValueError(
            f"train: device must be a GPU for sync_bn, got {device}; leave it out, so that each process has its own "
            "batch-norm statistics"
        )
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm) and not child.is_frozen():
                setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
