"""BatchNorm whose statistics are frozen together with its parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, which in training keeps and uses its running statistics while its parameters are frozen.

    ``encoder.requires_grad_(False)`` so freezes the encoder's output: PyTorch's own layer would go on to move its
    statistics and normalise with those of the batch. ``momentum = None`` asks for new statistics and overrides this, as
    ``torch.optim.swa_utils.update_bn`` does.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        if self.training and self.is_frozen():
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)

    def is_frozen(self) -> bool:
        """Whether weight and bias need no gradient, as parameters or as what a wrapper makes of its parameters."""
        if self.momentum is None or self.running_mean is None:
            return False
        # torch.func puts plain tensors where parameters are registered, which say nothing about freezing. FSDP 1 and
        # DataParallel put theirs among the plain attributes; they need a gradient if the parameters do, where any does.
        views_tell = torch.is_grad_enabled()
        affine = {"weight": self.weight, "bias": self.bias}
        said = (
            isinstance(p, nn.Parameter) or (views_tell and name in vars(self)) for name, p in affine.items()
        )
        return all(said) and not any(p.requires_grad for p in affine.values())

    def _check_input_dim(self, input: Tensor) -> None:
        """Check nothing: the model has checked its images, and a symbolic trace cannot look at a shape."""
