"""BatchNorm whose statistics are frozen together with its parameters."""

from __future__ import annotations

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
        """Whether weight and bias are parameters that need no gradient."""
        # In torch.func's calls they are plain tensors, which say nothing about freezing.
        frozen = (isinstance(p, nn.Parameter) and not p.requires_grad for p in (self.weight, self.bias))
        return self.momentum is not None and self.running_mean is not None and all(frozen)

    def _check_input_dim(self, input: Tensor) -> None:
        """Check nothing: the model has checked its images, and a symbolic trace cannot look at a shape."""
