"""The gradients of a batch in parts: the processes of a run have one share each, and accumulation cuts every share.

The loss of the whole batch is a mean over its labelled pixels, and the parts have different numbers of them. Each part
therefore computes its mean over *all* pixels, a sum with a known divisor, and the sum of all parts is divided once: the
gradients are those of the whole batch but for BatchNorm, whose statistics are those of a part.

There is one all-reduce per step, after the last part, and not DistributedDataParallel with its hooks inside of the
backward pass: the CUDA graph of a step (`segnext.training.gradients`) has no place for them, and the gradients of
SegNeXt-L are 196 MB, few milliseconds between the GPUs of a machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from segnext.ranks import Ranks, flat, unflatten


def expect_parts(batch_size: int, crop: int, accumulate: int, ranks: int) -> None:
    """Raise a one-line error unless a batch can be cut into the parts of all processes.

    Raises:
        ValueError: they would differ in size, or a part is too small for BatchNorm.
    """
    parts = accumulate * ranks
    of = f"{ranks} processes x accumulate {accumulate}"
    if batch_size % parts:
        raise ValueError(f"train: batch_size must be a multiple of {parts} ({of}), got {batch_size}")
    if batch_size == parts and crop <= 32:
        raise ValueError(
            f"train: batch_size must be at least {2 * parts} ({of}) for crops of up to 32 pixels, got {batch_size}"
        )


def labelled_weight(labels: Tensor, ignore_index: int, class_weight: Tensor | None) -> float:
    """Return how much the labelled pixels of (N, H, W) uint8 labels count: their number, or their classes' weights."""
    counts = torch.bincount(labels.reshape(-1), minlength=256)
    counts[ignore_index] = 0
    if class_weight is None:
        return float(counts.sum())
    weights = class_weight.to(device=counts.device, dtype=torch.float64)
    return float((counts[: len(weights)] * weights).sum())


def part_seed(seed: int, step: int, part: int) -> int:
    """Return the seed of dropout, drop path and NMF bases in one part of one step."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0])


class PartedGradients:
    """Computes the gradients of a batch of which this process has one share.

    Random numbers are seeded anew for each part by its place in the whole batch, so that 4 processes draw those of one
    process with `accumulate` 4.

    Args:
        model: its parameters get the gradients.
        compute: leaves the gradients of a part's loss over all pixels in the parameters and returns that loss.
        accumulate: parts of a share.
        ranks: the processes.
        seed: the run's seed.
    """

    def __init__(
        self,
        model: nn.Module,
        compute: Callable[[Tensor, Tensor], Tensor],
        accumulate: int,
        ranks: Ranks,
        seed: int,
    ) -> None:
        self.model, self.compute = model, compute
        self.accumulate, self.ranks, self.seed = accumulate, ranks, seed

    def __call__(self, images: Tensor, labels: Tensor, step: int, factor: float) -> Tensor:
        """Leave the gradients of the whole batch in the parameters, in place of those before; return its loss.

        Args:
            images: (N, C, H, W), this process's share.
            labels: (N, H, W).
            step: number of the step.
            factor: what a part's loss over all pixels is multiplied by before it is summed.
        """
        size = len(images) // self.accumulate
        total: list[Tensor] = []
        loss = torch.zeros((), device=images.device)
        for index in range(self.accumulate):
            torch.manual_seed(part_seed(self.seed, step, self.ranks.rank * self.accumulate + index))
            part = slice(index * size, (index + 1) * size)
            loss += self.compute(images[part], labels[part])
            found = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            if self.accumulate == 1:
                total = found
            elif not total:
                total = [gradient.clone() for gradient in found]
            else:
                torch._foreach_add_(total, found)
        with torch.no_grad():
            if self.ranks.count > 1:
                joined = self.ranks.summed(flat([*total, loss]))
                unflatten(joined, [*total, loss])
            torch._foreach_mul_(total, factor)
            with_gradient = (p for p in self.model.parameters() if p.grad is not None)
            for parameter, gradient in zip(with_gradient, total, strict=True):
                parameter.grad = gradient
        return loss * factor
